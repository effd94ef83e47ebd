package ctl

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/node"
)

// defaultBump is what etcd's documentation advises: more than any cluster writes between two backups.
const defaultBump = 1_000_000_000

func snapshotRestoreCommand(g *globals) *cobra.Command {
	var (
		dir, name, cluster, token, peers string
		bump                             uint64
		quota                            int64
		compacted, skipHash              bool
	)
	cmd := &cobra.Command{
		Use:   "restore <filename> --data-dir DIR",
		Short: "Make the data directory of a new cluster's member from a snapshot file",
		Long: `Make the data directory of a new cluster's member from a snapshot file, muster's or etcd's. Run it once for each member,
with the same file and options but for --name and --data-dir; then start all of them. Members restored from different
data refuse each other. A directory that a restore was cut short in is not started; restore into it once more.

The revision is raised and the history before it marked compacted, so that nobody who knew the old cluster mistakes a
new revision for an old one, and create revisions go on rising as fencing tokens must. --bump-revision 0 leaves it out.`,
		Example: `  muster ctl snapshot restore backup.db --data-dir m1

  # a cluster of three: the same on each machine, with its own name
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
			members, err := parseMembers(cluster)
			if err != nil {
				return err
			}
			if own := members[name]; peers != "" && !slices.Equal(slices.Sorted(slices.Values(own)), slices.Sorted(slices.Values(strings.Split(peers, ",")))) {
				return badArgs("--initial-cluster has %s=%s but --initial-advertise-peer-urls is %s; make them equal", name, strings.Join(own, ","), peers)
			}
			if dir == "" {
				dir = name + ".muster"
			}
			rev, err := node.RestoreSnapshot(ctx, node.Config{
				Name: name, Dir: dir, InitialCluster: members, Token: token,
				Machine: machine.Config{Settings: machine.Settings{Quota: quota}},
			}, args[0], node.RestoreOptions{BumpRevision: int64(bump), MarkCompacted: compacted, SkipHashCheck: skipHash})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(v.out, "Restored into %s: the cluster begins at revision %d\n", dir, rev)
			return err
		}),
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data-dir", "", "directory to make (default <name>.muster)")
	f.StringVar(&name, "name", "default", "the member's name")
	f.StringVar(&cluster, "initial-cluster", "default=http://localhost:2380", "the founding members, name=peer-url,…")
	f.StringVar(&token, "initial-cluster-token", "etcd-cluster", "keeps clusters founded with equal URLs apart")
	f.StringVar(&peers, "initial-advertise-peer-urls", "", "this member's peer URLs; must be those in --initial-cluster")
	f.Uint64Var(&bump, "bump-revision", defaultBump, "how much to raise the revision")
	f.BoolVar(&compacted, "mark-compacted", true, "mark the history before the raised revision compacted")
	f.BoolVar(&skipHash, "skip-hash-check", false, "take a file without a hash at its end, copied from a data directory, or with a wrong one")
	f.Int64Var(&quota, "quota-backend-bytes", 0, "how much data, history included, before writes are refused (0: 2 GiB); a snapshot of muster's brings its own")
	return cmd
}

// parseMembers reads name=url,name=url; a name may come again for another URL.
func parseMembers(s string) (map[string][]string, error) {
	members := map[string][]string{}
	for part := range strings.SplitSeq(s, ",") {
		name, url, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || url == "" {
			return nil, badArgs("--initial-cluster: %q is not name=url", part)
		}
		members[name] = append(members[name], url)
	}
	return members, nil
}
