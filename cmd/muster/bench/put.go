package bench

import "github.com/spf13/cobra"

const putMethod = "/etcdserverpb.KV/Put"

// puts are what put and the other loads write.
type puts struct {
	keyspace
	valueSize int
}

func (p *puts) validate() error {
	if p.valueSize < 0 || p.valueSize > 1<<30 {
		return usagef("--val-size %d: use 0 or more", p.valueSize)
	}
	return p.keyspace.validate()
}

// requests makes a connection's puts.
func (p *puts) requests(seed uint64) func(conn int) func(client int, dst []byte) []byte {
	message, keyAt := putRequest(p.size, randomValue(p.valueSize, seed))
	return func(conn int) func(int, []byte) []byte {
		choose := p.chooser(seed, conn)
		return func(_ int, dst []byte) []byte {
			at := len(dst) + keyAt
			dst = append(dst, message...)
			p.set(dst[at:at+p.size], choose())
			return dst
		}
	}
}

func putCommand() *cobra.Command {
	var o options
	var p puts
	cmd := &cobra.Command{
		Use:     "put",
		Short:   "Put keys",
		Example: "  muster bench put --total 200000 --key-space-size 100000\n  muster bench put --sequential-keys --total 1000000 --key-space-size 1000000 --val-size 100",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.resolve(cmd.Flags()); err != nil {
				return err
			}
			if err := p.validate(); err != nil {
				return err
			}
			cfg := o.load(putMethod)
			cfg.Next = p.requests(o.seed)
			return o.measure(cmd, "put", cfg)
		},
	}
	o.addFlags(cmd.Flags(), 100000, "puts")
	cmd.Flags().Float64Var(&o.rate, "rate", 0, "puts a second at most (0: as fast as answers come)")
	p.addFlags(cmd.Flags())
	cmd.Flags().IntVar(&p.valueSize, "val-size", 256, "bytes of a value")
	return cmd
}
