package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
)

// PlanSnapshot lays out a view as a checkpoint file, which is an etcd snapshot:
// its size is known before it is written.
func PlanSnapshot(v *machine.View) (*checkpoint.Plan, error) {
	buckets, err := bucketsOf(v)
	if err != nil {
		return nil, err
	}
	return checkpoint.NewPlan(buckets)
}

// WriteSnapshot writes a view as a checkpoint file.
func WriteSnapshot(w io.Writer, v *machine.View) error {
	plan, err := PlanSnapshot(v)
	if err != nil {
		return err
	}
	_, err = plan.Write(w)
	return err
}

// HashState is a CRC-32C over everything the members hold in common: equal on
// all of them at the same applied index.
func HashState(v *machine.View) (uint32, error) {
	buckets, err := bucketsOf(v)
	if err != nil {
		return 0, err
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for _, b := range buckets {
		_, _ = io.WriteString(h, b.Name) // a hash takes everything
		for k, v := range b.Pairs {
			_, _ = h.Write(k)
			_, _ = h.Write(v)
		}
	}
	return h.Sum32(), nil
}

// Errors of snapshot files.
var (
	ErrNoDigest  = errors.New("snapshot has no hash at its end: it was copied from a data directory, or is cut short; 'snapshot restore --skip-hash-check' uses it all the same")
	ErrCutShort  = errors.New("snapshot is cut short inside the hash at its end, or has something behind it: take another copy; 'snapshot restore --skip-hash-check' uses it all the same")
	ErrDirInUse  = errors.New("data directory is not empty: restore into a new one")
	ErrBadBump   = errors.New("the history must be marked compacted if the revision is raised, and only then")
	ErrNoMembers = errors.New("no members to restore: --initial-cluster is empty")
)

// SnapshotStatus describes a snapshot file as etcdutl does.
type SnapshotStatus struct {
	Hash      uint32 `json:"hash"` // over all buckets
	Revision  int64  `json:"revision"`
	TotalKey  int    `json:"totalKey"`
	TotalSize int64  `json:"totalSize"`
	Version   string `json:"version"` // storage version; empty before etcd 3.6
	Verified  bool   `json:"-"`       // by the digest at its end, which a file copied from a data directory lacks
}

// ReadSnapshotStatus reads a whole snapshot file, verifying its digest if it
// has one. One with a part of a digest is refused.
func ReadSnapshotStatus(fs vfs.FS, file string) (SnapshotStatus, error) {
	r, err := checkpoint.Open(fs, file)
	if err != nil {
		return SnapshotStatus{}, err
	}
	defer r.Close()
	if r.Frayed() {
		return SnapshotStatus{}, fmt.Errorf("%s: %w", file, ErrCutShort)
	}
	st := SnapshotStatus{TotalSize: r.Size(), Verified: r.HasDigest()}
	if st.Verified {
		st.TotalSize -= sha256.Size
	}
	version, _, err := r.Get(checkpoint.BucketMeta, checkpoint.MetaStorageVersion)
	if err != nil {
		return SnapshotStatus{}, err
	}
	st.Version = string(version)
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	live := map[string]struct{}{}
	for _, bucket := range r.Buckets() {
		_, _ = io.WriteString(h, bucket)
		err := r.Each(bucket, func(k, v []byte) error {
			_, _ = h.Write(k)
			_, _ = h.Write(v)
			if bucket != checkpoint.BucketKey {
				return nil
			}
			main, _, tombstone, err := checkpoint.ParseRevisionKey(k)
			if err != nil {
				return err
			}
			st.Revision = main
			if key := keyOf(v); tombstone {
				delete(live, key)
			} else {
				live[key] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return SnapshotStatus{}, fmt.Errorf("bucket %q: %w", bucket, err)
		}
	}
	st.TotalKey, st.Hash = len(live), h.Sum32()
	return st, nil
}

// keyOf is the key in an encoded mvccpb.KeyValue: its first field.
func keyOf(kv []byte) string {
	num, typ, n := protowire.ConsumeTag(kv)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return ""
	}
	key, _ := protowire.ConsumeBytes(kv[n:])
	return string(key)
}

// RestoreOptions say how RestoreSnapshot treats history.
type RestoreOptions struct {
	// BumpRevision is added to the revision, so that what clients saw of the
	// old cluster after the snapshot is not mistaken for what happens now.
	BumpRevision int64
	// MarkCompacted makes watches from before start over. It goes with BumpRevision.
	MarkCompacted bool
	// SkipHashCheck takes a file without a digest, or with a wrong one.
	SkipHashCheck bool
}

// RestoreSnapshot makes cfg.Dir the directory of a founding member of a new
// cluster that begins with the data in a snapshot file, etcd's or ours. Of cfg
// it uses FS, Dir, Name, InitialCluster, Token, Machine, SegmentBytes and
// Logger. All members must be restored from the same data with the same
// options: the cluster's id is derived from the result, so that others find
// each other's cluster foreign. It returns the revision the cluster begins at.
func RestoreSnapshot(ctx context.Context, cfg Config, file string, opts RestoreOptions) (revision int64, err error) {
	if err := cfg.setDefaults(); err != nil {
		return 0, err
	}
	if (opts.BumpRevision > 0) != opts.MarkCompacted {
		return 0, ErrBadBump
	}
	if len(cfg.InitialCluster) == 0 {
		return 0, ErrNoMembers
	}
	members, self, clusterID, err := initialMembers(&cfg)
	if err != nil {
		return 0, err
	}
	src, err := openSnapshot(cfg.FS, file, opts.SkipHashCheck)
	if err != nil {
		return 0, err
	}
	defer src.Close() //nolint:errcheck // it was only read
	m, err := machine.Refound(cfg.Machine, src, opts.BumpRevision, opts.MarkCompacted, members...)
	if err != nil {
		return 0, fmt.Errorf("snapshot %s: %w", file, err)
	}
	m.EndEntry(bootstrapPosition.Index, bootstrapPosition.Term)
	v := m.Publish()
	plan, err := PlanSnapshot(v)
	if err != nil {
		return 0, err
	}
	written, err := plan.Write(io.Discard)
	if err != nil {
		return 0, err
	}
	return v.KV.Rev(), foundRestored(ctx, &cfg, v, wal.Metadata{NodeID: self, ClusterID: restoredClusterID(clusterID, written.Digest)})
}

// restoredClusterID sets a restored cluster apart from the one its data come
// from and from those that other data come from.
func restoredClusterID(clusterID uint64, digest [sha256.Size]byte) uint64 {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, clusterID), digest[:]...))
	return binary.BigEndian.Uint64(sum[:8])
}

type snapshotFile struct {
	*checkpoint.Reader
	io.Closer
}

func (f snapshotFile) Close() error { return f.Closer.Close() }

func openSnapshot(fs vfs.FS, file string, skipHash bool) (snapshotFile, error) {
	if !skipHash {
		r, err := checkpoint.Open(fs, file)
		if err != nil {
			return snapshotFile{}, err
		}
		switch {
		case r.Frayed():
			err = ErrCutShort
		case !r.HasDigest():
			err = ErrNoDigest
		}
		if err != nil {
			return snapshotFile{}, errors.Join(fmt.Errorf("%s: %w", file, err), r.Close())
		}
		return snapshotFile{r, r}, nil
	}
	f, err := fs.OpenFile(file, os.O_RDONLY, 0)
	if err != nil {
		return snapshotFile{}, err
	}
	size, err := f.Size()
	if err != nil {
		return snapshotFile{}, errors.Join(err, f.Close())
	}
	r, err := checkpoint.NewReader(f, size)
	if err != nil {
		return snapshotFile{}, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
	}
	return snapshotFile{r, f}, nil
}

// markRestoring stands in a directory from before anything else of a restore is
// in it until all is: a member that was started meanwhile would find nothing, and
// found a cluster of its own.
const markRestoring = "restoring"

// foundRestored writes the directory.
func foundRestored(ctx context.Context, cfg *Config, v *machine.View, md wal.Metadata) (err error) {
	if err := vfs.EnsureDir(cfg.FS, cfg.Dir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := markRestore(cfg); err != nil {
		return err
	}
	lock, err := cfg.FS.Lock(filepath.Join(cfg.Dir, lockFile))
	if err != nil {
		return fmt.Errorf("lock data directory %s: %w", cfg.Dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	for _, dir := range []string{logDir, checkpointDir} { // of a restore that was cut short
		if err := removeFiles(cfg.FS, filepath.Join(cfg.Dir, dir)); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	ckpts, err := checkpoint.OpenDir(cfg.checkpoints())
	if err != nil {
		return err
	}
	log, err := wal.Create(cfg.log(), md, bootstrapPosition)
	if err != nil {
		return err
	}
	if err := log.Close(); err != nil {
		return err
	}
	if err := saveCheckpoint(ctx, ckpts, v, nil); err != nil {
		return err
	}
	if err := cfg.FS.Remove(filepath.Join(cfg.Dir, markRestoring)); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return cfg.FS.SyncDir(cfg.Dir)
}

// markRestore begins a restore, or begins one again that was cut short.
func markRestore(cfg *Config) error {
	names, err := cfg.FS.ReadDir(cfg.Dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	foreign := func(name string) bool {
		return !slices.Contains([]string{markRestoring, lockFile, logDir, checkpointDir}, name)
	}
	if slices.ContainsFunc(names, foreign) || len(names) > 0 && !slices.Contains(names, markRestoring) {
		return fmt.Errorf("%s: %w", cfg.Dir, ErrDirInUse)
	}
	f, err := cfg.FS.OpenFile(filepath.Join(cfg.Dir, markRestoring), os.O_CREATE|os.O_WRONLY, vfs.FilePerm)
	if err == nil {
		err = errors.Join(f.Close(), cfg.FS.SyncDir(cfg.Dir))
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

// removeFiles empties a directory that need not be there.
func removeFiles(fs vfs.FS, dir string) error {
	names, err := fs.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		err = errors.Join(err, fs.Remove(filepath.Join(dir, name)))
	}
	return err
}
