package ctl

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/vfs"
)

func snapshotCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the state to a file, look at such a file, begin a cluster with it",
		Example: `  muster ctl --endpoints a:2379 snapshot save backup.db
  muster ctl snapshot status backup.db -w table
  muster ctl snapshot restore backup.db --data-dir new`,
	}
	cmd.AddCommand(snapshotSaveCommand(g), snapshotStatusCommand(g), snapshotRestoreCommand(g))
	return cmd
}

func snapshotSaveCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "save <filename>",
		Short: "Save one member's state, as of now, to a file",
		Long: `Save one member's state, as of now, to a file that muster, etcd and etcdutl can restore. The file appears under its name
once it is whole, verified and on disk. --command-timeout limits the whole transfer if it is given.`,
		Example: `  muster ctl --endpoints a:2379 snapshot save backup-$(date +%Y%m%d-%H%M%S).db`,
		RunE: g.run(func(ctx context.Context, v *invocation, args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot save expects one argument <filename>")
			}
			client, endpoints, err := v.targets(ctx, false)
			if err != nil {
				return err
			}
			if len(endpoints) != 1 {
				return &failure{
					code: exitInterrupted, text: fmt.Sprintf("snapshot must be requested to one selected node, not multiple %v", endpoints),
					hint: "give one member with --endpoints",
				}
			}
			conn, err := client.ConnTo(endpoints[0])
			if err != nil {
				return err
			}
			ctx, stop := v.interruptible(ctx)
			defer stop()
			if g.flags.Changed("command-timeout") {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, g.commandTimeout)
				defer cancel()
			}
			progress := newTransfer(v.err, args[0])
			version, err := fetchSnapshot(ctx, pb.NewMaintenanceClient(conn), args[0], progress)
			progress.done()
			if cause := context.Cause(ctx); err != nil && errors.As(cause, new(signaled)) {
				return cause
			}
			if err != nil {
				return failed(exitInterrupted, "", err)
			}
			fmt.Fprintf(v.out, "Snapshot saved at %s\n", args[0])
			if version != "" {
				fmt.Fprintf(v.out, "Server version %s\n", version)
			}
			return nil
		}),
	}
}

func fetchSnapshot(ctx context.Context, c pb.MaintenanceClient, name string, progress *transfer) (version string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return "", err
	}
	return saveSnapshot(vfs.OS(), name, progress.of(stream.Recv))
}

// saveSnapshot writes to a file beside the named one, which is put in place only when all is well.
func saveSnapshot(fs vfs.FS, name string, recv func() (*pb.SnapshotResponse, error)) (version string, err error) {
	part := name + ".part"
	f, err := fs.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, vfs.FilePerm)
	if err != nil {
		return "", fmt.Errorf("could not open %s: %w", part, err)
	}
	defer func() {
		if err != nil {
			_ = fs.Remove(part) // the error that matters is told
		}
	}()
	if version, err = receiveSnapshot(recv, f); err != nil {
		_ = f.Close()
		return version, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return version, fmt.Errorf("could not save the snapshot: %w", err)
	}
	if err := fs.Rename(part, name); err != nil {
		return version, fmt.Errorf("could not save the snapshot: %w", err)
	}
	return version, fs.SyncDir(filepath.Dir(name))
}

// receiveSnapshot copies a snapshot and checks it against the hash in its last message.
func receiveSnapshot(recv func() (*pb.SnapshotResponse, error), w io.Writer) (version string, err error) {
	hash := sha256.New()
	var last []byte
	for {
		resp, err := recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return version, err
		}
		version = resp.GetVersion()
		_, _ = hash.Write(last) // all but the last message
		last = resp.GetBlob()
		if _, err := w.Write(last); err != nil {
			return version, fmt.Errorf("could not write snapshot: %w", err)
		}
	}
	if sum := hash.Sum(nil); string(sum) != string(last) {
		return version, fmt.Errorf("snapshot is damaged or cut short: its SHA-256 is %x, the server says %x", sum, last)
	}
	return version, nil
}

func snapshotStatusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status <filename>",
		Short: "Describe a snapshot file",
		Long: `Describe a snapshot file, after verifying it: hash, revision, keys, size, storage version. A file copied from a data
directory carries nothing to verify it by; then a note on stderr says so.`,
		Example: `  muster ctl snapshot status backup.db -w table`,
		RunE: g.run(func(_ context.Context, v *invocation, args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot status requires exactly one argument")
			}
			p, err := v.printer(snapshotStatus{})
			if err != nil {
				return err
			}
			st, err := node.ReadSnapshotStatus(vfs.OS(), args[0])
			if err != nil {
				return err
			}
			if !st.Verified {
				fmt.Fprintf(v.err, "Note: %s has no hash at its end: not verified\n", args[0])
			}
			return p.Print(snapshotStatus{st})
		}),
	}
}

type snapshotStatus struct{ node.SnapshotStatus }

func (r snapshotStatus) simple(t *text) { t.rows(r) }
func (r snapshotStatus) fields(t *text) {
	t.printf("\"Hash\" : %d\n\"Revision\" : %d\n\"Keys\" : %d\n\"Size\" : %d\n\"Version\" : %s\n", r.Hash, r.Revision, r.TotalKey, r.TotalSize, r.Version)
}
func (r snapshotStatus) json(bool) any { return r.SnapshotStatus }

func (r snapshotStatus) table() (header []string, rows [][]string) {
	return []string{"hash", "revision", "total keys", "total size", "version"}, [][]string{{
		fmt.Sprintf("%x", r.Hash), fmt.Sprint(r.Revision), fmt.Sprint(r.TotalKey), bytesize(r.TotalSize), r.Version,
	}}
}
