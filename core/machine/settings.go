package machine

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/membership"
)

// Settings are the limits that affect results, so they are part of the
// replicated state: members whose flags differ must still refuse alike. They
// change by a SetSettings command only.
type Settings struct {
	Quota           int64 // bytes of data with uncompacted history; negative: no limit
	MaxTxnOps       int64
	MaxRequestBytes int64
	MinLeaseTTL     int64 // seconds
	MaxLearners     int64
}

// DefaultSettings are those of a new cluster, and etcd's.
func DefaultSettings() Settings {
	return Settings{Quota: 2 << 30, MaxTxnOps: 128, MaxRequestBytes: 1536 << 10, MinLeaseTTL: 2, MaxLearners: membership.DefaultMaxLearners}
}

// withDefaults replaces zero fields.
func (s Settings) withDefaults() Settings {
	d := DefaultSettings()
	for _, f := range []struct{ have, want *int64 }{
		{&s.Quota, &d.Quota},
		{&s.MaxTxnOps, &d.MaxTxnOps},
		{&s.MaxRequestBytes, &d.MaxRequestBytes},
		{&s.MinLeaseTTL, &d.MinLeaseTTL},
		{&s.MaxLearners, &d.MaxLearners},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	return s
}

// Encode gives the body of a SetSettings command. A field that is 0 is left out
// and leaves the setting as it is.
func (s Settings) Encode() []byte {
	var b []byte
	for i, v := range [...]int64{s.Quota, s.MaxTxnOps, s.MaxRequestBytes, s.MinLeaseTTL, s.MaxLearners} {
		if v != 0 {
			b = protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(v))
		}
	}
	return b
}

// merge reads what Encode wrote over s. A setting that this release doesn't know
// would be enforced by others and not here, so it is refused.
func (s Settings) merge(b []byte) (Settings, error) {
	fields := map[protowire.Number]*int64{
		1: &s.Quota, 2: &s.MaxTxnOps, 3: &s.MaxRequestBytes, 4: &s.MinLeaseTTL, 5: &s.MaxLearners,
	}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return s, err
		}
		to := fields[f.num]
		if to == nil || f.typ != protowire.VarintType {
			return s, fmt.Errorf("%w: setting %d", ErrUnknownCommand, f.num)
		}
		*to, b = int64(f.u), rest
	}
	return s, s.check()
}

// check refuses what merge must not read back: neither a command nor the first
// state of a cluster may hold it.
func (s Settings) check() error {
	if s.MaxTxnOps < 1 || s.MaxTxnOps > math.MaxInt32 || s.MaxRequestBytes < 1 || s.MinLeaseTTL < 1 ||
		s.MaxLearners < 1 || s.MaxLearners > math.MaxInt32 || s.Quota == 0 {
		return fmt.Errorf("%w: %+v", ErrBadSettings, s)
	}
	return nil
}
