package ctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// getFlags are the flags of get, as a command and as a line of a transaction.
type getFlags struct {
	consistency, order, sortBy           string
	limit, rev                           int64
	prefix, fromKey                      bool
	keysOnly, countOnly, valueOnly       bool
	minCreate, maxCreate, minMod, maxMod int64
}

func (o *getFlags) register(f *pflag.FlagSet) {
	f.StringVar(&o.consistency, "consistency", "l", "l: as agreed by the quorum (linearizable); s: as this member knows it (serializable)")
	f.StringVar(&o.order, "order", "", "ASCEND or DESCEND")
	f.StringVar(&o.sortBy, "sort-by", "", "CREATE, KEY, MODIFY, VALUE or VERSION")
	f.Int64Var(&o.limit, "limit", 0, "most keys to return; 0 for all")
	f.BoolVar(&o.prefix, "prefix", false, "all keys that begin with KEY")
	f.BoolVar(&o.fromKey, "from-key", false, "all keys from KEY on, in byte order")
	f.Int64Var(&o.rev, "rev", 0, "revision of the store to read; 0 for the present one")
	f.BoolVar(&o.keysOnly, "keys-only", false, "leave the values out")
	f.BoolVar(&o.countOnly, "count-only", false, "only count, with -w fields")
	f.BoolVar(&o.valueOnly, "print-value-only", false, "print values only, with -w simple")
	f.Int64Var(&o.minCreate, "min-create-rev", 0, "leave out keys created before this revision")
	f.Int64Var(&o.maxCreate, "max-create-rev", 0, "leave out keys created after this revision")
	f.Int64Var(&o.minMod, "min-mod-rev", 0, "leave out keys last changed before this revision")
	f.Int64Var(&o.maxMod, "max-mod-rev", 0, "leave out keys last changed after this revision")
}

func getCommand(g *globals) *cobra.Command {
	var o getFlags
	cmd := &cobra.Command{
		Use:   "get KEY [RANGE_END]",
		Short: "Read a key or a range of keys",
		Long:  `Read a key, or with RANGE_END the keys from KEY up to, not including, RANGE_END.`,
		Example: `  muster ctl get greeting
  muster ctl get worker/ --prefix --keys-only
  muster ctl get a c                                # a, ab, b, ..., not c

  # how many, without reading them
  muster ctl get worker/ --prefix --count-only -w fields

  # the five changed last
  muster ctl get "" --prefix --sort-by MODIFY --order DESCEND --limit 5

  # as it was at revision 42
  muster ctl get greeting --rev 42`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			p, err := v.printer(getResult{})
			if err != nil {
				return err
			}
			req, err := o.request(args)
			if err != nil {
				return err
			}
			if o.countOnly && g.format != "fields" {
				return badArgs("--count-only is only for `--write-out=fields`")
			}
			if o.valueOnly && g.format != "simple" {
				return badArgs("print-value-only is only for `--write-out=simple`")
			}
			conn, err := v.conn(ctx)
			if err != nil {
				return err
			}
			resp, err := call(ctx, v, pb.NewKVClient(conn).Range, req)
			if err != nil {
				return err
			}
			return p.Print(getResult{resp, o.valueOnly})
		}),
	}
	o.register(cmd.Flags())
	complete(cmd, "consistency", "l", "s")
	complete(cmd, "order", "ASCEND", "DESCEND")
	complete(cmd, "sort-by", "CREATE", "KEY", "MODIFY", "VALUE", "VERSION")
	return cmd
}

func (o *getFlags) request(args []string) (*pb.RangeRequest, error) {
	switch {
	case len(args) == 0 || len(args) > 2:
		return nil, badArgs("get command needs one argument as key and an optional argument as range_end")
	case o.keysOnly && o.countOnly:
		return nil, badArgs("`--keys-only` and `--count-only` cannot be set at the same time, choose one")
	case o.maxCreate > 0 && o.minCreate > o.maxCreate:
		return nil, badValue("getMinCreateRev(=%v) > getMaxCreateRev(=%v)", o.minCreate, o.maxCreate)
	case o.maxMod > 0 && o.minMod > o.maxMod:
		return nil, badValue("getMinModRev(=%v) > getMaxModRev(=%v)", o.minMod, o.maxMod)
	}
	serializable, err := serializable(o.consistency)
	if err != nil {
		return nil, err
	}
	key, end, err := keyRange(args, o.prefix, o.fromKey)
	if err != nil {
		return nil, err
	}
	order, ok := map[string]pb.RangeRequest_SortOrder{
		"": pb.RangeRequest_NONE, "ASCEND": pb.RangeRequest_ASCEND, "DESCEND": pb.RangeRequest_DESCEND,
	}[strings.ToUpper(o.order)]
	if !ok {
		return nil, badValue("bad sort order %v", o.order)
	}
	target, ok := map[string]pb.RangeRequest_SortTarget{
		"": pb.RangeRequest_KEY, "KEY": pb.RangeRequest_KEY, "CREATE": pb.RangeRequest_CREATE,
		"MODIFY": pb.RangeRequest_MOD, "VALUE": pb.RangeRequest_VALUE, "VERSION": pb.RangeRequest_VERSION,
	}[strings.ToUpper(o.sortBy)]
	if !ok {
		return nil, badValue("bad sort target %v", o.sortBy)
	}
	if target == pb.RangeRequest_KEY && order == pb.RangeRequest_ASCEND {
		order = pb.RangeRequest_NONE // the order keys are in anyway
	}
	return &pb.RangeRequest{
		Key: key, RangeEnd: end, Limit: o.limit, Revision: max(o.rev, 0), SortOrder: order, SortTarget: target,
		Serializable: serializable, KeysOnly: o.keysOnly, CountOnly: o.countOnly,
		MinCreateRevision: max(o.minCreate, 0), MaxCreateRevision: max(o.maxCreate, 0),
		MinModRevision: max(o.minMod, 0), MaxModRevision: max(o.maxMod, 0),
	}, nil
}

// badValue is a flag with a value that isn't supported.
func badValue(format string, args ...any) error {
	f := &failure{code: exitFeature}
	f.text = badArgs(format, args...).Error()
	return f
}

// serializable reads --consistency.
func serializable(consistency string) (bool, error) {
	switch consistency {
	case "l":
		return false, nil
	case "s":
		return true, nil
	}
	return false, badValue("unknown consistency flag %q", consistency)
}

// keyRange is the range that arguments and flags name, in etcd's wire form: an empty end for one key, "\x00" for the end
// of all keys.
func keyRange(args []string, prefix, fromKey bool) (key, end []byte, err error) {
	switch {
	case prefix && fromKey:
		return nil, nil, badArgs("`--prefix` and `--from-key` cannot be set at the same time, choose one")
	case len(args) > 1 && (prefix || fromKey):
		return nil, nil, badArgs("too many arguments, only accept one argument when `--prefix` or `--from-key` is set")
	case len(args) > 1:
		return []byte(args[0]), []byte(args[1]), nil
	}
	key = []byte(args[0])
	if !prefix && !fromKey {
		return key, nil, nil
	}
	if len(key) == 0 {
		return []byte{0}, []byte{0}, nil
	}
	if fromKey {
		return key, []byte{0}, nil
	}
	return key, prefixEnd(key), nil
}

// prefixEnd is the first key after all that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return []byte{0}
}
