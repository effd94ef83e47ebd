package node

import "sync/atomic"

// Counters are totals since this process started.
type Counters struct {
	Puts, Deletes, Txns uint64 // keys put and deleted, transactions carried out

	LeasesGranted, LeasesRevoked uint64 // carried out here; revoked ones include expired ones
	LeasesRenewed, LeasesExpired uint64 // by this member while it led

	FailedReads    uint64 // read batches that no leader confirmed
	LateHeartbeats uint64 // that this member, leading, sent a whole interval late
}

// counters are what Counters are read from.
type counters struct {
	puts, deletes, txns         atomic.Uint64
	granted, revoked            atomic.Uint64
	renewed, expired            atomic.Uint64
	failedReads, lateHeartbeats atomic.Uint64
}

func (c *counters) read() Counters {
	return Counters{
		Puts: c.puts.Load(), Deletes: c.deletes.Load(), Txns: c.txns.Load(),
		LeasesGranted: c.granted.Load(), LeasesRevoked: c.revoked.Load(),
		LeasesRenewed: c.renewed.Load(), LeasesExpired: c.expired.Load(),
		FailedReads: c.failedReads.Load(), LateHeartbeats: c.lateHeartbeats.Load(),
	}
}

// applied adds what a task did.
func (c *counters) applied(d *ApplyDone) {
	c.puts.Add(d.Puts)
	c.deletes.Add(d.Deletes)
	c.txns.Add(d.Txns)
	for _, e := range d.Leases {
		switch {
		case e.Granted:
			c.granted.Add(1)
		case !e.Checkpointed:
			c.revoked.Add(1)
		}
	}
}
