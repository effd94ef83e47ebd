// Package election chooses one leader among candidates, each with a value that everybody can read.
//
//	e := election.New(session, "service/primary")
//	l, err := e.Campaign(ctx, []byte("10.0.0.7:8080")) // waits until elected
//	if err != nil {
//		return err
//	}
//	defer l.Resign(ctx)
//	// lead while l.Context() lives
//
// Anybody may follow along, without a session:
//
//	for ev, err := range election.NewObserver(client, "service/primary").Observe(ctx) { … }
//
// # How it works
//
// Candidates stand in the same kind of line as waiters for a lock (see package lock): keys NAME/LEASE-NONCE in order of
// create revision, the first of them leads. etcd's clients (etcdctl elect, the concurrency package, v3election) may
// stand in the same election and see the same leader. Campaign returns only after the quorum has confirmed that the own key
// stands, so a candidate whose lease ran out while it waited never believes itself leader.
//
// # What it promises
//
// At most one candidate's key is first. A leader that is stopped for longer than its TTL may still act on what it
// believed; tokens and guards fence it off, as for locks.
//
// # Concurrency
//
// All types may be used by any number of goroutines. Each Campaign is a candidate of its own, also on one session.
//
// # Refused
//
// A lost session is never replaced: Campaign returns sdk.ErrSessionLost, never a leadership.
package election
