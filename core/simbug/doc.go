// Package simbug switches known bugs on, by name, in the simulator's build only.
//
// A checker that has never caught anything proves nothing. So the mistakes that
// coordination stores have made (correctness.md, section 6), and some of our own, stand as
// one line each where they were, or would have been, made:
//
//	if simbug.On(simbug.SkipSync) { return nil }
//
// Without the build tag simbugs On is a constant false, and the compiler drops
// those lines: the shipped binary holds none of them. With it, core/simtest
// switches them on one at a time and must notice each within a stated number of
// seeds (core/simtest/DESIGN.md).
package simbug

// Bug is the name of one.
type Bug string

// The bugs there are. Where a number stands, it is etcd's issue or pull request.
const (
	// Durability.
	SkipSync         Bug = "skip-sync"          // the log answers without syncing
	AckBeforeDurable Bug = "ack-before-durable" // a follower acknowledges entries that are not on its disk (14370, ZOOKEEPER-4646)
	ForgetVote       Bug = "forget-vote"        // term and vote are not written down
	SkipDirSync      Bug = "skip-dir-sync"      // a new log segment's name is not made durable (6368)
	LogNotReset      Bug = "log-not-reset"      // after a crash between installing a checkpoint and resetting the log, the old log stands
	ReleaseTooMuch   Bug = "release-too-much"   // log is released that the older checkpoint needs
	RotInCheckpoint  Bug = "rot-in-checkpoint"  // a checkpoint's digest is not verified
	RotInLog         Bug = "rot-in-log"         // a log batch's checksum is not verified

	// Acknowledgement.
	AckBeforeCommit Bug = "ack-before-commit" // a leader answers when it has proposed
	TellRefused     Bug = "tell-refused"      // what may be in a log is reported as never taken
	ForwardTwice    Bug = "forward-twice"     // a copy of a forwarded batch is proposed again

	// Reads.
	NoReadBarrier  Bug = "no-read-barrier"  // a linearizable read asks nobody
	ReadBeforeTerm Bug = "read-before-term" // a lone leader confirms reads before its term's first entry
	OldReadIndex   Bug = "old-read-index"   // an answer to a question given up confirms the next batch (20418)
	ReusedReadID   Bug = "reused-read-id"   // ids of read batches begin anew with each process
	RestoreEarly   Bug = "restore-early"    // a checkpoint counts as applied before it is loaded

	// Membership.
	LearnerVotes      Bug = "learner-votes"       // raft is told that a learner is a voter
	LearnerReads      Bug = "learner-reads"       // a learner asks nobody before a linearizable read
	PromoteUnready    Bug = "promote-unready"     // a learner is promoted that has not caught up
	PromotionLost     Bug = "promotion-lost"      // a promoted learner's vote is not written down (19563)
	KeepsVote         Bug = "keeps-vote"          // raft is not told of a removal
	RemovedStays      Bug = "removed-stays"       // a removed member is taken for a stranger, by itself, too
	RemovedForgotten  Bug = "removed-forgotten"   // removed ids are missing from checkpoints
	IDReuse           Bug = "id-reuse"            // a removed id may be added again
	ChangeAtProposal  Bug = "change-at-proposal"  // a leader goes by a change when it has proposed it
	ChangeAckEarly    Bug = "change-ack-early"    // a change is acknowledged when it has been proposed
	ChangeUnconfirmed Bug = "change-unconfirmed"  // a change is acknowledged although those who are left may forget that it is committed
	ChangeToldRefused Bug = "change-told-refused" // a change is proposed and reported as refused
	ChangeTwice       Bug = "change-twice"        // a copy of a forwarded change is proposed again
	SecondChange      Bug = "second-change"       // a second change is proposed while one is under way
	ChangeBeforeTerm  Bug = "change-before-term"  // a leader proposes a change before it has applied its term's first entry
	ForgetCommit      Bug = "forget-commit"       // the commit index is not written down beside the entries: a member campaigns with changes it should have applied
	RefusedCounts     Bug = "refused-counts"      // raft is told of a change that the members refused
	ConfStale         Bug = "conf-stale"          // after a checkpoint, changes count from the voters before it
	ChangeFromPast    Bug = "change-from-past"    // raft makes changes again that the checkpoint it took holds
	MoveUnseen        Bug = "move-unseen"         // moves in the log count only when they are applied
	VouchEarly        Bug = "vouch-early"         // a member does not tell a joiner of the names in its log that are not applied
	JoinUnvouched     Bug = "join-unvouched"      // a joiner takes the id that the first member that answers shows it
	SoloEarly         Bug = "solo-early"          // a member that is alone now reads before it has applied what the removed one acknowledged

	// State.
	IndexAhead       Bug = "index-ahead"        // a checkpoint claims one entry more than it holds (13766)
	IndexBehind      Bug = "index-behind"       // a checkpoint claims one entry less: it is applied twice (14685)
	DropTombstone    Bug = "drop-tombstone"     // compaction drops a delete at its own revision (18089, 19179)
	RevisionFalls    Bug = "revision-falls"     // the revision is lower after a restart (17780)
	TxnRangeLocal    Bug = "txn-range-local"    // whether a revision in a txn is compacted depends on how far the member's sweep is (18667)
	LeaseKeyOutlives Bug = "lease-key-outlives" // a key outlives its lease (ZOOKEEPER-2355)
	LeaseKeysStay    Bug = "lease-keys-stay"    // a key moved away from its lease goes with it

	// Watches.
	CatchUpGap    Bug = "catch-up-gap"    // catch-up begins one revision late
	JoinGap       Bug = "join-gap"        // events between catch-up and joining are lost
	OverflowGap   Bug = "overflow-gap"    // the first revision that found no room is lost (17529)
	ReplayOld     Bug = "replay-old"      // after a checkpoint, watchers get their first events again (15271)
	FutureGetsOld Bug = "future-gets-old" // a watcher from a future revision gets what comes before (20221)
	ProgressAhead Bug = "progress-ahead"  // progress is reported while events are owed (15220)
	PrevIsNew     Bug = "prev-is-new"     // prev_kv of an event from history is the pair itself
	AfterCancel   Bug = "after-cancel"    // a watcher that was cancelled goes on getting events
	CancelEarly   Bug = "cancel-early"    // a watcher is cancelled for a compaction that there was not

	// Leases.
	RenewExpiring    Bug = "renew-expiring"     // a renewal succeeds although the expiry is in the log (20590)
	RenewUnconfirmed Bug = "renew-unconfirmed"  // a leader that was replaced goes on renewing
	OldLeaderExpires Bug = "old-leader-expires" // a leader that was replaced goes on expiring, through its successor (15247)
	NoExtension      Bug = "no-extension"       // a new leader gives leases half their time
	ExpireLate       Bug = "expire-late"        // a lease lives on for twenty seconds after its time
)

// All lists them.
func All() []Bug {
	return []Bug{
		SkipSync, AckBeforeDurable, ForgetVote, SkipDirSync, LogNotReset, ReleaseTooMuch,
		RotInCheckpoint, RotInLog,
		AckBeforeCommit, TellRefused, ForwardTwice,
		NoReadBarrier, ReadBeforeTerm, OldReadIndex, ReusedReadID, RestoreEarly,
		LearnerVotes, LearnerReads, PromoteUnready, PromotionLost, KeepsVote, RemovedStays, RemovedForgotten, IDReuse,
		ChangeAtProposal, ChangeAckEarly, ChangeUnconfirmed, ChangeToldRefused, ChangeTwice, SecondChange, ChangeBeforeTerm,
		ForgetCommit, RefusedCounts, ConfStale, ChangeFromPast, JoinUnvouched, VouchEarly, MoveUnseen, SoloEarly,
		IndexAhead, IndexBehind, DropTombstone, RevisionFalls, TxnRangeLocal, LeaseKeyOutlives, LeaseKeysStay,
		CatchUpGap, JoinGap, OverflowGap, ReplayOld, FutureGetsOld, ProgressAhead, PrevIsNew, AfterCancel, CancelEarly,
		RenewExpiring, RenewUnconfirmed, OldLeaderExpires, NoExtension, ExpireLate,
	}
}
