package node

import "github.com/musterhq/muster/core/machine"

// settleSettings makes the leader's flags the cluster's settings, once a term: limits
// that affect results are replicated, so that all members refuse alike, and a
// raised --quota-backend-bytes takes effect with the next leader that has it.
// A flag that was left out (0) leaves the setting as it is: one member that lacks
// it must not change the limits of all when it comes to lead.
func (s *Stepper) settleSettings(have machine.Settings) {
	want := s.cfg.Settings
	for _, f := range []struct{ want, have *int64 }{
		{&want.Quota, &have.Quota},
		{&want.MaxTxnOps, &have.MaxTxnOps},
		{&want.MaxRequestBytes, &have.MaxRequestBytes},
		{&want.MinLeaseTTL, &have.MinLeaseTTL},
		{&want.MaxLearners, &have.MaxLearners},
	} {
		if *f.want == 0 {
			*f.want = *f.have
		}
	}
	if want != have {
		s.own(machine.SetSettings, s.cfg.Settings.Encode())
	}
}
