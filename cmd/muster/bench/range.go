package bench

import (
	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const rangeMethod = "/etcdserverpb.KV/Range"

// ranges are the options of range.
type ranges struct {
	keyspace
	consistency   string
	limit         int64
	prefix        bool
	fromKey       bool
	countOnly     bool
	keysOnly      bool
	explicit      bool // a key was given
	key, rangeEnd string
}

func (r *ranges) resolve(args []string) error {
	if r.consistency != "l" && r.consistency != "s" {
		return usagef("--consistency %s: use l (linearizable) or s (serializable)", r.consistency)
	}
	if len(args) > 0 {
		r.explicit, r.key = true, args[0]
	}
	if len(args) > 1 {
		r.rangeEnd = args[1]
	}
	switch {
	case !r.prefix && !r.fromKey:
	case r.prefix && r.fromKey || r.rangeEnd != "":
		return usagef("--prefix, --from-key and an end of the range exclude each other: give one")
	case !r.explicit:
		return usagef("--prefix and --from-key need a key: give one")
	case r.prefix:
		r.rangeEnd = prefixEnd(r.key)
	default:
		r.rangeEnd = "\x00"
	}
	if r.explicit && r.key == "" {
		r.key = "\x00" // all keys begin after it; an empty key is refused
	}
	return r.validate()
}

// requests makes a connection's ranges: the one asked for, or single random keys.
func (r *ranges) requests(seed uint64) (func(conn int) func(client int, dst []byte) []byte, error) {
	rest, err := proto.Marshal(&pb.RangeRequest{
		RangeEnd: []byte(r.rangeEnd), Limit: r.limit, Serializable: r.consistency == "s", CountOnly: r.countOnly, KeysOnly: r.keysOnly,
	})
	if err != nil {
		return nil, err
	}
	message := protowire.AppendTag(nil, fieldKey, protowire.BytesType)
	if r.explicit {
		message = append(protowire.AppendString(message, r.key), rest...)
		return func(int) func(int, []byte) []byte {
			return func(_ int, dst []byte) []byte { return append(dst, message...) }
		}, nil
	}
	message = protowire.AppendBytes(message, make([]byte, r.size))
	keyAt := len(message) - r.size
	message = append(message, rest...)
	return func(conn int) func(int, []byte) []byte {
		choose := r.chooser(seed, conn)
		return func(_ int, dst []byte) []byte {
			at := len(dst) + keyAt
			dst = append(dst, message...)
			r.set(dst[at:at+r.size], choose())
			return dst
		}
	}, nil
}

func rangeCommand() *cobra.Command {
	var o options
	var r ranges
	cmd := &cobra.Command{
		Use:   "range [KEY [RANGE-END]]",
		Short: "Read keys: random single ones of those that put wrote, or the range given",
		Example: `  muster bench range --consistency s
  muster bench range "" --from-key --limit 100 --clients 1 --conns 1 --total 50`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.resolve(cmd.Flags()); err != nil {
				return err
			}
			if err := r.resolve(args); err != nil {
				return err
			}
			cfg := o.load(rangeMethod)
			var err error
			if cfg.Next, err = r.requests(o.seed); err != nil {
				return err
			}
			return o.measure(cmd, "range", cfg)
		},
	}
	f := cmd.Flags()
	o.addFlags(f, 100000, "ranges")
	f.Float64Var(&o.rate, "rate", 0, "ranges a second at most (0: as fast as answers come)")
	r.addFlags(f)
	f.StringVar(&r.consistency, "consistency", "l", "l: linearizable, s: serializable")
	f.Int64Var(&r.limit, "limit", 0, "most keys to return (0: all)")
	f.BoolVar(&r.prefix, "prefix", false, "read all keys that begin with KEY")
	f.BoolVar(&r.fromKey, "from-key", false, "read all keys from KEY on")
	f.BoolVar(&r.countOnly, "count-only", false, "only count")
	f.BoolVar(&r.keysOnly, "keys-only", false, "leave out the values")
	return cmd
}
