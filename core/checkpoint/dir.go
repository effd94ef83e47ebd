package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/core/vfs"
)

// Errors of a Dir.
var (
	// ErrNone: there is no checkpoint, or none at that index.
	ErrNone = errors.New("no checkpoint")
	// ErrNoSpace: the disk has no room for another checkpoint.
	ErrNoSpace = errors.New("no room for a checkpoint")
	// ErrBusy: a checkpoint at that index and term is being written.
	ErrBusy = errors.New("checkpoint is being written")
)

const (
	suffix     = ".db" // etcd's tools know the file as a snapshot
	tempSuffix = ".tmp"
	keep       = 2 // a damaged newest file has one to fall back on
)

// Config says where checkpoints live. FS and Dir are required.
type Config struct {
	FS     vfs.FS
	Dir    string
	Logger *slog.Logger
	OnSync func(d time.Duration) // called after each piece of a checkpoint was synced
	Now    func() time.Time      // nil = time.Now; times OnSync
}

// Info names a checkpoint.
type Info struct {
	Index, Term uint64
	Size        int64
}

func (i Info) name() string { return fmt.Sprintf("%016x-%016x%s", i.Index, i.Term, suffix) }

func parseName(name string) (Info, bool) {
	var i Info
	if n, err := fmt.Sscanf(name, "%016x-%016x"+suffix, &i.Index, &i.Term); n != 2 || err != nil {
		return Info{}, false
	}
	return i, i.name() == name
}

// Pace is called after each piece of n bytes was written and synced; it may wait
// so that the log's syncs find the disk free. An error ends the writing. Nil
// means not to wait.
type Pace func(ctx context.Context, n int) error

// Dir keeps the checkpoints of one member in a directory that is all its own.
type Dir struct {
	cfg Config
	mu  struct {
		sync.Mutex
		held    []*held // newest first
		writing map[string]bool
	}
}

// held is a file under its final name.
type held struct {
	Info
	whole   bool // verified, or written, by this process
	damaged bool
}

// OpenDir opens or makes the directory and removes what a crash left half done.
func OpenDir(cfg Config) (*Dir, error) {
	if cfg.FS == nil || cfg.Dir == "" {
		return nil, errors.New("checkpoint: FS and Dir must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnSync == nil {
		cfg.OnSync = func(time.Duration) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := &Dir{cfg: cfg}
	d.mu.writing = make(map[string]bool)
	if err := d.load(); err != nil {
		return nil, fmt.Errorf("checkpoint: open %s: %w", cfg.Dir, err)
	}
	return d, nil
}

func (d *Dir) load() error {
	if err := vfs.EnsureDir(d.cfg.FS, d.cfg.Dir); err != nil {
		return err
	}
	names, err := d.cfg.FS.ReadDir(d.cfg.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, tempSuffix) {
			if err := d.cfg.FS.Remove(d.path(name)); err != nil {
				return err
			}
			continue
		}
		info, ok := parseName(name)
		if !ok {
			continue
		}
		stat, err := d.cfg.FS.Stat(d.path(name))
		if err != nil {
			return err
		}
		info.Size = stat.Size
		d.mu.held = append(d.mu.held, &held{Info: info})
	}
	slices.SortFunc(d.mu.held, newestFirst)
	// A process that was killed may not have come to make the name of its last
	// checkpoint durable, and the log is about to be let go for it.
	return d.cfg.FS.SyncDir(d.cfg.Dir)
}

func newestFirst(a, b *held) int {
	return cmp.Or(cmp.Compare(b.Index, a.Index), cmp.Compare(b.Term, a.Term))
}

func (d *Dir) path(name string) string { return filepath.Join(d.cfg.Dir, name) }

// List returns the checkpoints, newest first, without those found damaged.
func (d *Dir) List() []Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Info
	for _, h := range d.mu.held {
		if !h.damaged {
			out = append(out, h.Info)
		}
	}
	return out
}

// Oldest returns the index of the oldest checkpoint, 0 if there is none: the log
// after it must be kept.
func (d *Dir) Oldest() uint64 {
	list := d.List()
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].Index
}

// Newest returns the newest checkpoint that is whole. Damaged ones on the way
// are logged and left where they are. It returns ErrNone only if there is no
// checkpoint at all; if all are damaged the error is ErrCorrupt.
func (d *Dir) Newest() (Info, error) {
	var damaged []error
	for _, info := range d.List() {
		err := d.verify(info)
		if err == nil {
			return info, nil
		}
		if errors.Is(err, ErrNone) {
			continue // removed meanwhile
		}
		d.cfg.Logger.Error("checkpoint is damaged; falling back on the one before", "file", d.path(info.name()), "err", err)
		d.update(info, func(h *held) { h.damaged = true })
		damaged = append(damaged, err)
	}
	if len(damaged) == 0 && !d.anyDamaged() {
		return Info{}, fmt.Errorf("%w in %s", ErrNone, d.cfg.Dir)
	}
	return Info{}, fmt.Errorf("%w: no whole checkpoint is left in %s; restore this member from a snapshot, or remove and re-add it: %w",
		ErrCorrupt, d.cfg.Dir, errors.Join(damaged...))
}

func (d *Dir) anyDamaged() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.mu.held, func(h *held) bool { return h.damaged })
}

// update changes what is known of a checkpoint, if it is still held.
func (d *Dir) update(info Info, change func(*held)) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.mu.held {
		if h.Index == info.Index && h.Term == info.Term {
			change(h)
			return true
		}
	}
	return false
}

// verify reads a whole file once in this process's life.
func (d *Dir) verify(info Info) error {
	whole := false
	if !d.update(info, func(h *held) { whole = h.whole }) {
		return ErrNone
	}
	if whole {
		return nil
	}
	r, err := d.open(info, true)
	if err != nil {
		return err
	}
	if err := r.Close(); err != nil {
		return err
	}
	d.update(info, func(h *held) { h.whole = true })
	return nil
}

func (d *Dir) open(info Info, verify bool) (*Reader, error) {
	r, err := open(d.cfg.FS, d.path(info.name()), verify)
	if err == nil && !r.HasDigest() {
		err = fmt.Errorf("checkpoint: %w: %s is cut short: it has no digest", ErrCorrupt, d.path(info.name()))
		return nil, errors.Join(err, r.Close())
	}
	return r, err
}

// Open opens the newest checkpoint at an index, verifying it unless this
// process has done so before. ErrNone if there isn't one.
func (d *Dir) Open(index uint64) (*Reader, error) {
	info, err := d.find(index)
	if err != nil {
		return nil, err
	}
	if err := d.verify(info); err != nil {
		return nil, err
	}
	return d.open(info, false)
}

func (d *Dir) find(index uint64) (Info, error) {
	for _, info := range d.List() {
		if info.Index == index {
			return info, nil
		}
	}
	return Info{}, fmt.Errorf("%w at index %d in %s", ErrNone, index, d.cfg.Dir)
}

// Save writes a checkpoint. If there is one at that index and term already, it
// is the same and Save does nothing. On an error nothing is left behind.
func (d *Dir) Save(ctx context.Context, index, term uint64, buckets []Bucket, pace Pace) (Info, error) {
	return d.add(Info{Index: index, Term: term}, func(temp string) (int64, error) {
		plan, err := NewPlan(buckets)
		if err != nil {
			return 0, err
		}
		switch free, err := d.cfg.FS.Free(d.cfg.Dir); {
		case errors.Is(err, errors.ErrUnsupported): // then the write itself will tell
		case err != nil:
			return 0, err
		case free < uint64(plan.Size()):
			return 0, fmt.Errorf("%w: %d bytes needed, %d free", ErrNoSpace, plan.Size(), free)
		}
		err = d.writeTemp(ctx, temp, plan.Size(), pace, func(w io.Writer) error {
			_, err := plan.Write(w)
			return err
		})
		return plan.Size(), err
	})
}

// Install stores a checkpoint received from a peer: a file as Save writes it.
// Its digest is verified, on what was stored, before it gets its name.
func (d *Dir) Install(ctx context.Context, body io.Reader, index, term uint64) (Info, error) {
	return d.add(Info{Index: index, Term: term}, func(temp string) (size int64, err error) {
		err = d.writeTemp(ctx, temp, 0, nil, func(w io.Writer) error {
			size, err = io.Copy(w, body)
			return err
		})
		if err != nil {
			return 0, err
		}
		r, err := open(d.cfg.FS, d.path(temp), true)
		if err != nil {
			return 0, err
		}
		if !r.HasDigest() {
			err = fmt.Errorf("%w: the stream of %d bytes ended early or has no digest", ErrCorrupt, size)
		}
		return size, errors.Join(err, r.Close())
	})
}

// add runs write on a temporary file that is to become info's, and makes it so.
func (d *Dir) add(info Info, write func(temp string) (size int64, err error)) (Info, error) {
	name := info.name()
	temp := name + tempSuffix
	if done, err := d.reserve(&info); done || err != nil {
		return info, err
	}
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.mu.writing, name)
	}()
	size, err := write(temp)
	if err == nil {
		err = d.cfg.FS.Rename(d.path(temp), d.path(name))
	}
	if err != nil {
		_ = d.cfg.FS.Remove(d.path(temp)) // if it fails, the next OpenDir does it
		return Info{}, fmt.Errorf("checkpoint at index %d: %w", info.Index, err)
	}
	if err := d.cfg.FS.SyncDir(d.cfg.Dir); err != nil {
		return Info{}, fmt.Errorf("checkpoint at index %d: %w", info.Index, err)
	}
	info.Size = size
	d.mu.Lock()
	d.mu.held = slices.DeleteFunc(d.mu.held, func(h *held) bool { return h.name() == name }) // a damaged one, replaced
	d.mu.held = append(d.mu.held, &held{Info: info, whole: true})
	slices.SortFunc(d.mu.held, newestFirst)
	d.mu.Unlock()
	d.prune()
	return info, nil
}

// reserve claims a name, or finds it done.
func (d *Dir) reserve(info *Info) (done bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.mu.held {
		if h.name() == info.name() && !h.damaged {
			*info = h.Info
			return true, nil
		}
	}
	if d.mu.writing[info.name()] {
		return false, fmt.Errorf("checkpoint at index %d: %w", info.Index, ErrBusy)
	}
	d.mu.writing[info.name()] = true
	return false, nil
}

// prune removes what is older than the newest two whole ones.
// Damaged files newer than those stay, for whoever looks into the damage.
func (d *Dir) prune() {
	d.mu.Lock()
	var good int
	var victims []string
	d.mu.held = slices.DeleteFunc(d.mu.held, func(h *held) bool {
		if good < keep {
			if !h.damaged {
				good++
			}
			return false
		}
		victims = append(victims, h.name())
		return true
	})
	d.mu.Unlock()
	for _, name := range victims {
		if err := d.cfg.FS.Remove(d.path(name)); err != nil {
			d.cfg.Logger.Warn("could not remove an old checkpoint", "file", d.path(name), "err", err)
		}
	}
	if len(victims) == 0 {
		return
	}
	if err := d.cfg.FS.SyncDir(d.cfg.Dir); err != nil {
		d.cfg.Logger.Warn("could not sync the checkpoint directory", "dir", d.cfg.Dir, "err", err)
	}
}
