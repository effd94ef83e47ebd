//go:build simbugs

package simtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/musterhq/muster/core/simbug"
)

// mutant says within how many seeds a bug must be found, and in what kind of run
// if not in any. Seeds count from 1; the table in DESIGN.md has what was needed.
type mutant struct {
	seeds  uint64
	narrow func(*Options)
}

var mutants = map[simbug.Bug]mutant{
	simbug.SkipSync:          {seeds: 5},
	simbug.AckBeforeDurable:  {seeds: 60},
	simbug.ForgetVote:        {seeds: 40},
	simbug.SkipDirSync:       {seeds: 5},
	simbug.LogNotReset:       {seeds: 60, narrow: cutWhileInstalling},
	simbug.ReleaseTooMuch:    {seeds: 60},
	simbug.RotInCheckpoint:   {seeds: 20, narrow: damaging},
	simbug.RotInLog:          {seeds: 20, narrow: damaging},
	simbug.AckBeforeCommit:   {seeds: 5},
	simbug.TellRefused:       {seeds: 150},
	simbug.ForwardTwice:      {seeds: 10},
	simbug.NoReadBarrier:     {seeds: 5},
	simbug.ReadBeforeTerm:    {seeds: 40, narrow: members(1)},
	simbug.OldReadIndex:      {seeds: 100, narrow: only("bad network", "leader transfer", "pause", "slow disk")},
	simbug.ReusedReadID:      {seeds: 200, narrow: only("bad network", "leader transfer", "pause", "slow disk")},
	simbug.RestoreEarly:      {seeds: 100, narrow: sendingCheckpoints},
	simbug.LearnerVotes:      {seeds: 10},
	simbug.LearnerReads:      {seeds: 20},
	simbug.PromoteUnready:    {seeds: 20, narrow: only("add learner", "promote", "remove", "crash")},
	simbug.PromotionLost:     {seeds: 20, narrow: only("add learner", "promote", "remove", "crash")},
	simbug.KeepsVote:         {seeds: 30},
	simbug.RemovedStays:      {seeds: 10},
	simbug.RemovedForgotten:  {seeds: 10},
	simbug.IDReuse:           {seeds: 20},
	simbug.ChangeAtProposal:  {seeds: 40, narrow: only("add voter", "remove", "crash", "partition", "one-way cut", "leader pauses and is cut off")},
	simbug.ChangeAckEarly:    {seeds: 10},
	simbug.ChangeUnconfirmed: {seeds: 5, narrow: unled{4, removesLast}.play},
	simbug.ChangeToldRefused: {seeds: 10},
	simbug.ChangeTwice:       {seeds: 60, narrow: only("bad network", "update peer URLs")},
	simbug.SecondChange:      {seeds: 10},
	simbug.ChangeBeforeTerm:  {seeds: 10, narrow: only("changes while the leader changes", "slow apply")},
	simbug.ForgetCommit:      {seeds: 400, narrow: only("add voter", "remove", "crash of all", "crash", "partition", "one-way cut", "leader pauses and is cut off")},
	simbug.RefusedCounts:     {seeds: 20},
	simbug.ConfStale:         {seeds: 10},
	simbug.ChangeFromPast:    {seeds: 5, narrow: overtaken},
	simbug.VouchEarly:        {seeds: 5, narrow: yetToReplay},
	simbug.MoveUnseen:        {seeds: 5, narrow: moving{lags: 1}.play},
	simbug.JoinUnvouched:     {seeds: 5, narrow: freedURL},
	simbug.SoloEarly:         {seeds: 200, narrow: comingAndGoing},
	simbug.IndexAhead:        {seeds: 5},
	simbug.IndexBehind:       {seeds: 5},
	simbug.DropTombstone:     {seeds: 20},
	simbug.RevisionFalls:     {seeds: 20},
	simbug.TxnRangeLocal:     {seeds: 20},
	simbug.LeaseKeyOutlives:  {seeds: 5},
	simbug.LeaseKeysStay:     {seeds: 60}, // one run in eight shows it
	simbug.CatchUpGap:        {seeds: 5},
	simbug.JoinGap:           {seeds: 5},
	simbug.OverflowGap:       {seeds: 5},
	simbug.ReplayOld:         {seeds: 10},
	simbug.FutureGetsOld:     {seeds: 10},
	simbug.ProgressAhead:     {seeds: 5},
	simbug.PrevIsNew:         {seeds: 5},
	simbug.AfterCancel:       {seeds: 5},
	simbug.CancelEarly:       {seeds: 5},
	simbug.RenewExpiring:     {seeds: 60, narrow: slowLeases},
	simbug.RenewUnconfirmed:  {seeds: 100, narrow: pausedLeaders},
	simbug.OldLeaderExpires:  {seeds: 20},
	simbug.NoExtension:       {seeds: 10},
	simbug.ExpireLate:        {seeds: 20},
}

func members(n int) func(*Options) { return func(o *Options) { o.Members = n } }

func only(kinds ...string) func(*Options) {
	return func(o *Options) {
		o.Members, o.kinds = 3, kinds
	}
}

func sendingCheckpoints(o *Options) {
	only("crash", "partition", "pause", "slow disk", "checkpoint at a bad moment")(o)
	o.shape = small()
}

func damaging(o *Options) {
	only("bit rot at rest", "misdirected checkpoint write", "checkpoint at a bad moment")(o)
	o.shape = small()
}

func cutWhileInstalling(o *Options) {
	only("power cut between I/Os", "partition", "pause")(o)
	o.shape = small()
}

func comingAndGoing(o *Options) {
	only("slow apply", "add voter", "add learner", "remove")(o)
	o.Members, o.Clients, o.think = 1, 10, 40*time.Millisecond
}

func slowLeases(o *Options) {
	only("slow disk", "disk stall", "one-way cut")(o)
	o.shape = small()
	o.Clients = 12
}

func pausedLeaders(o *Options) {
	only("leader pauses and is cut off")(o)
	o.shape = small()
	o.leasesOnly = true
}

// TestMutants switches every known bug on and wants it found. In short mode the
// ones that need many seeds are left out.
func TestMutants(t *testing.T) {
	for _, bug := range simbug.All() {
		m, ok := mutants[bug]
		if !ok {
			t.Errorf("%s stands in no table", bug)
			continue
		}
		if testing.Short() && m.seeds > 20 {
			continue
		}
		t.Run(string(bug), func(t *testing.T) {
			simbug.Switch(bug)
			defer simbug.Switch("")
			for seed := range m.seeds {
				opts := Options{Seed: seed + 1}
				if m.narrow != nil {
					m.narrow(&opts)
				}
				var err error
				t.Run(fmt.Sprint("seed=", opts.Seed), func(t *testing.T) { _, err = Run(t, opts) })
				if err != nil {
					simbug.Switch("")
					t.Run("without", func(t *testing.T) {
						if _, err := Run(t, opts); err != nil {
							t.Errorf("it fails without the bug as well: %v", err)
						}
					})
					fmt.Printf("| `%s` | %d | %d | %.150q |\n", bug, opts.Seed, m.seeds, err)
					return
				}
			}
			t.Errorf("not found within %d seeds: the simulator is blind to it", m.seeds)
		})
	}
}
