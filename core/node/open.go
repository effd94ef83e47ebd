package node

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/replica"
	"github.com/musterhq/muster/core/simbug"
	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
)

// What stands in a data directory.
const (
	lockFile      = "lock"
	startsFile    = "starts"      // how often this directory was opened: makes ids unique across restarts
	logDir        = "log"         // core/wal
	checkpointDir = "checkpoints" // core/checkpoint
)

// Errors of a data directory, each with its remedy.
var (
	ErrForeignDir   = errors.New("data directory belongs to another cluster")
	ErrEtcdDir      = errors.New("data directory is etcd's own: take a snapshot with 'etcdctl snapshot save' and restore it into a new directory")
	ErrLogGap       = errors.New("the log does not reach back to the newest readable checkpoint: restore this member from a snapshot, or remove and re-add it")
	ErrNoCheckpoint = errors.New("the directory holds a log but no readable checkpoint: restore this member from a snapshot, or remove and re-add it")
	ErrHalfFounded  = errors.New("the directory was left half made by a first start with other flags: delete it and start again")
	ErrHalfRestored = errors.New("the directory was left half made by a restore: restore into it once more, or delete it")
	ErrNoLog        = errors.New("the log is missing beside an existing checkpoint: restore this member from a snapshot, or remove and re-add it")
)

// bootstrapPosition is where every founding member starts: index 1 holds the
// initial membership, which all of them write alike.
var bootstrapPosition = wal.Position{Index: 1, Term: 1}

// recovered is a member's state as its directory gives it.
type recovered struct {
	id, clusterID uint64
	firstID       uint64 // of this run's commands
	machine       *machine.Machine
	hard          *raftpb.HardState
	start         replica.Position
	entries       []*raftpb.Entry
	replayBytes   int64
	peers         []membership.Member // of a joiner, which has no state to tell
	log           *wal.Log
	ckpts         *checkpoint.Dir
	unlock        io.Closer
}

// recoverState locks the directory and brings back what it holds; an empty one
// becomes a founding member's. The newest valid checkpoint is loaded; raft
// hands out again what was committed after it.
//
// Invariant: on return the log starts at or before the checkpoint and reaches
// at least as far, whatever moment a crash chose.
func recoverState(ctx context.Context, cfg *Config) (_ *recovered, err error) {
	// Before anything is written: the directory may be a running etcd's.
	if info, err := cfg.FS.Stat(filepath.Join(cfg.Dir, "member")); err == nil && info.IsDir {
		return nil, fmt.Errorf("%s: %w", cfg.Dir, ErrEtcdDir)
	}
	if _, err := cfg.FS.Stat(filepath.Join(cfg.Dir, markRestoring)); err == nil {
		return nil, fmt.Errorf("%s: %w", cfg.Dir, ErrHalfRestored)
	}
	if err := vfs.EnsureDir(cfg.FS, cfg.Dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	r := &recovered{}
	r.unlock, err = cfg.FS.Lock(filepath.Join(cfg.Dir, lockFile))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("data directory %s is in use by another process: %w", cfg.Dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w", cfg.Dir, err)
	}
	defer func() {
		if err != nil {
			if r.log != nil {
				err = errors.Join(err, r.log.Close())
			}
			err = errors.Join(err, r.unlock.Close())
		}
	}()
	if r.firstID, err = countStart(cfg.FS, cfg.Dir); err != nil {
		return nil, err
	}
	r.ckpts, err = checkpoint.OpenDir(cfg.checkpoints())
	if err != nil {
		return nil, err
	}
	pos, err := r.loadNewest(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return r, r.openLog(ctx, cfg, pos)
}

// countStart raises and returns the start counter, shifted to where it forms
// the upper part of ids.
func countStart(fs vfs.FS, dir string) (uint64, error) {
	name := filepath.Join(dir, startsFile)
	var n uint64
	if f, err := fs.OpenFile(name, os.O_RDONLY, 0); err == nil {
		var b [8]byte
		_, err := f.ReadAt(b[:], 0)
		if err := errors.Join(err, f.Close()); err != nil {
			// Counting from 1 again would give ids out a second time.
			return 0, fmt.Errorf("start counter %s: %w", name, err)
		}
		n = binary.BigEndian.Uint64(b[:])
	} else if !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("start counter: %w", err)
	}
	n++
	tmp := name + ".tmp"
	f, err := fs.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("start counter: %w", err)
	}
	_, werr := f.Write(binary.BigEndian.AppendUint64(nil, n))
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("start counter: %w", err)
	}
	if err := errors.Join(fs.Rename(tmp, name), fs.SyncDir(dir)); err != nil {
		return 0, fmt.Errorf("start counter: %w", err)
	}
	return n << 40, nil
}

// loadNewest loads the newest readable checkpoint, or founds the member.
func (r *recovered) loadNewest(ctx context.Context, cfg *Config) (wal.Position, error) {
	info, err := r.ckpts.Newest()
	if errors.Is(err, checkpoint.ErrNone) {
		return r.begin(ctx, cfg)
	}
	if err != nil {
		return wal.Position{}, err
	}
	m, err := loadCheckpoint(r.ckpts, cfg.Machine, info.Index)
	if err != nil {
		return wal.Position{}, err
	}
	r.machine = m
	return wal.Position{Index: info.Index, Term: info.Term}, nil
}

// begin is for a directory without a checkpoint: that of a member about to
// found a cluster, or to join one, or that has joined and was not brought up.
func (r *recovered) begin(ctx context.Context, cfg *Config) (_ wal.Position, err error) {
	var names []string
	if _, err := cfg.FS.Stat(filepath.Join(cfg.Dir, logDir)); err == nil {
		if names, err = cfg.FS.ReadDir(filepath.Join(cfg.Dir, logDir)); err != nil {
			return wal.Position{}, err
		}
	}
	if len(names) == 0 && !cfg.Join {
		return r.found(ctx, cfg)
	}
	r.machine, err = machine.New(cfg.Machine)
	return wal.Position{}, err
}

// found makes a founding member: its first checkpoint holds the initial
// membership, and its log starts right after it.
func (r *recovered) found(ctx context.Context, cfg *Config) (wal.Position, error) {
	members, self, clusterID, err := initialMembers(cfg)
	if err != nil {
		return wal.Position{}, err
	}
	if err := ranBefore(ctx, cfg, self, clusterID); err != nil {
		return wal.Position{}, err
	}
	// This member's flags are none of the state that all begin with: theirs may
	// differ. The first leader proposes its own.
	m, err := machine.New(machine.Config{Logger: cfg.Machine.Logger}, members...)
	if err != nil {
		return wal.Position{}, err
	}
	p := bootstrapPosition
	m.EndEntry(p.Index, p.Term)
	if err := saveCheckpoint(ctx, r.ckpts, m.Publish(), nil); err != nil {
		return wal.Position{}, fmt.Errorf("write the first checkpoint: %w", err)
	}
	r.machine = m
	return p, nil
}

// initialMembers derives ids from --initial-cluster as etcd does, so that all
// founding members agree without talking.
func initialMembers(cfg *Config) (_ []membership.Member, self, clusterID uint64, _ error) {
	var members []membership.Member
	var ids []uint64
	for _, name := range slices.Sorted(maps.Keys(cfg.InitialCluster)) {
		urls := slices.Sorted(slices.Values(cfg.InitialCluster[name]))
		m := membership.Member{ID: membership.MemberID(urls, cfg.Token, 0), Name: name, PeerURLs: urls}
		if name == cfg.Name {
			self = m.ID
		}
		m.Name = "" // a member tells its own name once it serves
		members = append(members, m)
		ids = append(ids, m.ID)
	}
	if self == 0 {
		return nil, 0, 0, fmt.Errorf("member name %q does not stand in --initial-cluster: add it, or correct --name", cfg.Name)
	}
	slices.SortFunc(members, func(a, b membership.Member) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(ids)
	if len(slices.Compact(slices.Clone(ids))) != len(ids) {
		return nil, 0, 0, errors.New("two members of --initial-cluster have the same peer URLs")
	}
	return members, self, membership.ClusterID(ids), nil
}

// openLog opens the log and makes it agree with the checkpoint at pos.
func (r *recovered) openLog(ctx context.Context, cfg *Config, pos wal.Position) error {
	wcfg := cfg.log()
	log, rec, err := wal.Open(wcfg)
	if errors.Is(err, wal.ErrNotExist) {
		return r.createLog(ctx, cfg, wcfg, pos)
	}
	if err != nil {
		return err
	}
	r.log = log
	r.id, r.clusterID = rec.Metadata.NodeID, rec.Metadata.ClusterID
	switch {
	case slices.Contains(r.machine.Publish().RemovedMembers, r.id):
		err = fmt.Errorf("%s: %w", cfg.Dir, ErrRemoved)
	case pos.Index > 0:
		err = r.checkIdentity(cfg)
	case rec.Start.Index > 0:
		err = fmt.Errorf("%s: %w", cfg.Dir, ErrNoCheckpoint)
	default:
		err = r.rejoin(ctx, cfg)
	}
	if err != nil {
		return err
	}
	if rec.Repaired != "" {
		cfg.Logger.Warn("repaired the log's torn end", "detail", rec.Repaired)
	}
	if rec.Start.Index > pos.Index {
		return fmt.Errorf("%w (log starts after %d, checkpoint stands at %d)", ErrLogGap, rec.Start.Index, pos.Index)
	}
	hs := raisedTo(rec.HardState, pos)
	last := rec.Start.Index + uint64(len(rec.Entries))
	if (last < pos.Index || termAt(rec, pos.Index) != pos.Term) && !simbug.On(simbug.LogNotReset) {
		// A crash came between installing a checkpoint from the leader and
		// restarting the log after it. Everything the log holds is older than
		// the checkpoint or was never committed.
		cfg.Logger.Info("the log is older than the checkpoint; starting it over", "log-end", last, "checkpoint", pos.Index)
		if err := log.Reset(pos, hs); err != nil {
			return err
		}
		r.hard, r.start = hs, replica.Position(pos)
		return nil
	}
	if hs.GetCommit() > last {
		hs.Commit = &last
	}
	r.hard = hs
	r.start, r.entries = tail(rec, pos)
	for _, e := range r.entries {
		if e.GetIndex() > pos.Index {
			r.replayBytes += int64(len(e.GetData()))
		}
	}
	return nil
}

// createLog starts the log of a founding or joining member, also when a crash
// came right after a founding member's first checkpoint.
func (r *recovered) createLog(ctx context.Context, cfg *Config, wcfg wal.Config, pos wal.Position) error {
	switch {
	case pos.Index == 0 && cfg.Join:
		return r.join(ctx, cfg, wcfg)
	case pos.Index == 0, pos == bootstrapPosition && cfg.Join:
		return fmt.Errorf("%s: %w", cfg.Dir, ErrHalfFounded)
	case pos != bootstrapPosition:
		return fmt.Errorf("%s: %w", wcfg.Dir, ErrNoLog)
	}
	_, self, clusterID, err := initialMembers(cfg)
	if err != nil {
		return err
	}
	log, err := wal.Create(wcfg, wal.Metadata{NodeID: self, ClusterID: clusterID}, pos)
	if err != nil {
		return err
	}
	r.log, r.id, r.clusterID = log, self, clusterID
	r.hard, r.start = raisedTo(nil, pos), replica.Position(pos)
	return nil
}

// checkIdentity refuses a directory that another cluster's member left here.
// Flags may lag behind membership changes, so they are only held against the
// directory when neither the cluster nor this member's name or URLs fit. One that
// has not told its name yet and has moved is known by the others in the flags.
func (r *recovered) checkIdentity(cfg *Config) error {
	_, self, clusterID, err := initialMembers(cfg)
	if err != nil || clusterID == r.clusterID || self == r.id {
		return nil
	}
	was := "at peer URLs this directory does not know"
	for _, m := range r.machine.Publish().Members {
		if m.ID != r.id {
			continue
		}
		if m.Name == "" && r.namedIn(cfg) {
			return nil
		}
		if m.Name == cfg.Name && m.Name != "default" {
			return nil
		}
		for _, u := range cfg.InitialCluster[cfg.Name] {
			if slices.Contains(m.PeerURLs, u) {
				return nil
			}
		}
		was = "at " + strings.Join(m.PeerURLs, ",")
		if m.Name != "" {
			was = fmt.Sprintf("named %q %s", m.Name, was)
		}
	}
	return fmt.Errorf("%w: %s holds member %s %s, of cluster %s; the flags describe member %s, %s=%s, of cluster %s: "+
		"give --name, --initial-cluster and --initial-advertise-peer-urls as they were when this directory was made, or use another --data-dir",
		ErrForeignDir, cfg.Dir, membership.FormatID(r.id), was, membership.FormatID(r.clusterID),
		membership.FormatID(self), cfg.Name, strings.Join(cfg.InitialCluster[cfg.Name], ","), membership.FormatID(clusterID))
}

// namedIn reports whether the flags name another member of this one's cluster.
func (r *recovered) namedIn(cfg *Config) bool {
	for _, m := range r.machine.Publish().Members {
		for name, urls := range cfg.InitialCluster {
			if m.ID != r.id && name != cfg.Name && slices.ContainsFunc(urls, func(u string) bool { return slices.Contains(m.PeerURLs, u) }) {
				return true
			}
		}
	}
	return false
}

// raisedTo is the hard state a member at pos must have at least.
func raisedTo(hs *raftpb.HardState, pos wal.Position) *raftpb.HardState {
	term, vote, commit := hs.GetTerm(), hs.GetVote(), hs.GetCommit()
	if term < pos.Term {
		term, vote = pos.Term, 0
	}
	commit = max(commit, pos.Index)
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

func termAt(rec *wal.Recovered, index uint64) uint64 {
	if index == rec.Start.Index {
		return rec.Start.Term
	}
	return rec.Entries[index-rec.Start.Index-1].GetTerm()
}

// tail keeps the entries after the checkpoint and a few before it, for
// followers that are only a little behind.
func tail(rec *wal.Recovered, pos wal.Position) (replica.Position, []*raftpb.Entry) {
	n := int(pos.Index - rec.Start.Index)
	for kept := 0; n > 0 && kept < keepBefore; n-- {
		kept += len(rec.Entries[n-1].GetData())
	}
	start := replica.Position(rec.Start)
	if n > 0 {
		e := rec.Entries[n-1]
		start = replica.Position{Index: e.GetIndex(), Term: e.GetTerm()}
	}
	return start, slices.Clone(rec.Entries[n:])
}

const keepBefore = 8 << 20
