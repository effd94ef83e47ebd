package ctl

import (
	"context"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/server"
)

// defaultBump is what etcd's documentation advises: more than any cluster writes between two backups.
const defaultBump = 1_000_000_000

func snapshotRestoreCommand(g *globals) *cobra.Command {
	var (
		cfg                 = server.Default()
		bump                uint64
		compacted, skipHash bool
	)
	cmd := &cobra.Command{
		Use:   "restore <filename> --data-dir DIR",
		Short: "Make the data directory of a new cluster's member from a snapshot file",
		Long: `Make the data directory of a new cluster's member from a snapshot file, muster's or etcd's. Run it once for each member,
with the same file and options but for its own --name, --initial-advertise-peer-urls and --data-dir; then start all of them,
with the same --name, --initial-cluster and --initial-advertise-peer-urls: what is left out is what it is to muster server, one
member at that command's default peer URL. Members restored from different data refuse each other. A directory that a restore was cut short in is not started;
restore into it once more.

The revision is raised and the history before it marked compacted, so that nobody who knew the old cluster mistakes a
new revision for an old one, and create revisions go on rising as fencing tokens must. --bump-revision 0 leaves it out.`,
		Example: `  muster ctl snapshot restore backup.db --data-dir m1

  # a cluster of three: the same on each machine, with its own name and peer URL
  muster ctl snapshot restore backup.db --data-dir m1 --name m1 --initial-advertise-peer-urls http://a:2380 \
    --initial-cluster m1=http://a:2380,m2=http://b:2380,m3=http://c:2380`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot restore requires exactly one argument")
			}
			if bump == 0 && !v.cmd.Flags().Changed("mark-compacted") {
				compacted = false
			}
			if (bump > 0) != compacted {
				return badArgs("--mark-compacted required if --bump-revision > 0, and disallowed otherwise")
			}
			if bump > math.MaxInt64/2 {
				return badArgs("--bump-revision %d is too large", bump)
			}
			nc, err := cfg.Founding()
			if err != nil {
				return failed(exitArgs, "", err)
			}
			nc.Machine.Settings.Quota = cfg.QuotaBackendBytes
			rev, err := node.RestoreSnapshot(ctx, nc, args[0], node.RestoreOptions{BumpRevision: int64(bump), MarkCompacted: compacted, SkipHashCheck: skipHash})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(v.out, "Restored into %s: the cluster begins at revision %d\n", nc.Dir, rev)
			return err
		}),
	}
	f := cmd.Flags()
	cfg.AddFoundingFlags(f)
	f.Uint64Var(&bump, "bump-revision", defaultBump, "how much to raise the revision")
	f.BoolVar(&compacted, "mark-compacted", true, "mark the history before the raised revision compacted")
	f.BoolVar(&skipHash, "skip-hash-check", false, "take a file without a hash at its end, copied from a data directory, or with a wrong one")
	f.Int64Var(&cfg.QuotaBackendBytes, "quota-backend-bytes", 0, "how much data, history included, before writes are refused (0: as in the snapshot; etcd's say nothing of it, which makes 2 GiB)")
	return cmd
}
