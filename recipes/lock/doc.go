// Package lock is a fair distributed mutex.
//
//	m := lock.NewMutex(session, "jobs/nightly")
//	l, err := m.Lock(ctx)
//	if err != nil {
//		return err
//	}
//	defer l.Unlock(ctx)
//	// work while l.Context() lives; pass l.Token() to what is written outside, l.Guard() to what is written inside
//
// # How it works
//
// Each Lock puts a key NAME/LEASE-NONCE bound to the session's lease. The key with the smallest create revision holds the
// lock; each of the others watches the one before it, so a release wakes one waiter. Before Lock returns, the quorum has
// confirmed that the own key stands. etcd's own clients (etcdctl lock, the concurrency package, the v3lock service)
// order themselves the same way under NAME/, so they and this package exclude each other.
//
// # What it promises
//
// A lock in a store of leases is a promise about the store only: a holder that is stopped for longer than its TTL wakes
// up believing that it holds. [Lock.Context] ends before the lease can, but nothing can stop a write already on its
// way. Whatever must never see two holders has to compare tokens: [Lock.Token], the create revision of the holder's key
// behind an epoch (see [WithEpoch]), rises with each holder, and a transaction with [Lock.Guard] does nothing once the
// lock has passed on.
//
// # Concurrency
//
// A Mutex may be used by any number of goroutines, and excludes them from each other also on one session. It is not
// re-entrant. A Lock's methods may be called concurrently.
//
// # Refused
//
// A lost session is never replaced: Lock and TryLock return sdk.ErrSessionLost, never success.
package lock
