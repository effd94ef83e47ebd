// Package transport carries bytes between the members of a cluster.
//
// # Main types
//
//   - [Transport] is a member's end of all connections; [Open] starts it, SetPeers
//     says whom to talk to, Send and SendSnapshot talk.
//   - [Handler] is who hears: core/node, as peerHandler.
//   - [Metrics] hear of the bytes that go and come, and of what was lost.
//   - [Ask] and [DialURL] are for who has no Transport yet.
//
// # Connections
//
// Each member dials every other one's advertised peer URL and keeps one
// one-way stream open to it; what comes back travels on the other member's own
// stream. A checkpoint goes over a connection of its own, so that it does not
// hold up heartbeats. A stream whose bytes stay unacknowledged for two seconds
// is given up and dialled anew (on Linux), so that members find each other
// within seconds of a partition's end, however long it was. One that can't be
// reached is dialled again after 50 ms, then less and less often, down to once a
// second; and at once when it has dialled this member.
//
// # Protocol
//
// A connection starts with a hello (magic, protocol version, kind, cluster id,
// sender, receiver, the sender's URLs, CRC32C) that the other side answers with
// one status byte and, on a refusal, the reason as text. Then come frames:
// length, CRC32C, payload. An unknown protocol version, a foreign cluster or a
// wrong receiver is refused by name; anything that is not a hello is closed and
// logged as "rejected connection on peer endpoint".
//
// A third kind of connection asks who belongs to the cluster (Ask): a member
// about to join learns its own id and the cluster's from it.
//
// # Changes of the membership
//
// A sender that this member has not heard of is taken on trust, with the URLs
// from its hello, up to 16 of them: a member that was away while others were
// replaced could otherwise never be reached by a leader it does not know. For the
// same reason a member is dialled where it says it is, too, in its last few hellos,
// and says so again, beside its streams, when it is elsewhere. A sender that was
// removed is told so (ErrRemoved, Handler.Expelled). A peer that leaves gets what is
// queued for it, which may be the news of its removal.
//
// # Contract
//
// Send never blocks: each peer has a queue bounded in bytes, and what does not
// fit is dropped and reported through Handler.Unreachable, which raft copes
// with. Handler methods are called from the transport's goroutines, one
// stream's frames in order. Open starts the goroutines, Close stops and awaits
// all of them.
//
// Invariant: a frame is handed over whole and unaltered or not at all, and after
// those sent before it on the same stream. Any may be lost.
//
// Refused: peer URLs other than http and unix (TLS between peers comes with
// core/pki), frames over 64 MiB, more than 1024 accepted connections, hellos of
// another cluster, for another member, or from one that was removed.
package transport
