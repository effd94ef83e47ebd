// Package registrar keeps a host's services registered: it checks their health, holds one lease, and makes the store
// say what the configuration and the checks say, for as long as it runs and however often the cluster goes away.
//
// # Types
//
//   - Config: what to register, from YAML (Parse) or made by a program. Validate names what is wrong.
//   - Registrar: Open starts it, Reload changes what is desired, Drain takes the instances out of traffic, Close
//     deregisters and ends the lease, Abandon ends without a word to the store.
//   - Store: what it needs of the store; NewStore makes one of an sdk.Client.
//   - API: the handler by which services feed ttl checks.
//
// # How it works
//
// What should be stored is computed, purely, from the configuration, the state of the checks and whether it is draining
// (desired.go); what must be done is the difference to what is stored (plan.go). One goroutine (agent.go) renews the
// lease at a third of its TTL ±10 % and carries the difference out: when a check changes, after a reload, when the
// connection is back, and every 60 s after reading everything anew. At each renewal it also asks which keys the lease
// still holds, so that a lease that was lost or revoked, keys that someone deleted, and a store that was emptied are
// all made good within one renewal. It never gives up: failures are retried with jittered backoff, at most a third of
// the lease apart.
//
// An instance is registered once its checks have all passed for the first time; its health is written when a check's
// status changes, at most once a second. After a crash, the lease named in lease.file is adopted if it still lives.
//
// # Invariants
//
// One lease a process. Nothing is written under a lease before the lease file, if there is one, names it. Only keys
// held by this lease, or left by an earlier incarnation of the same owner, are changed. A reload either takes effect
// wholly or changes nothing.
//
// # Concurrency
//
// A Registrar's methods may be called from any goroutine. The agent's state belongs to the agent's goroutine until Close
// has ended it.
//
// # Refusals
//
// Everything of the fuller reference that this release doesn't do is refused by name when the configuration is read:
// other sources, other kinds of checks, templates, proxies. The API listens on loopback and unix sockets only.
package registrar
