package simtest

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/musterhq/muster/core/vfs"
)

// crashMode is a vfs.CrashMode or killed.
type crashMode int8

// killed: the process ends, its machine goes on. What was written and not
// synced is there, and may still be lost by a later power cut.
const killed crashMode = -1

func (c crashMode) String() string {
	if c == killed {
		return "killed"
	}
	return vfs.CrashMode(c).String()
}

func (w *World) crashMode() crashMode {
	if w.mode != nil {
		return *w.mode
	}
	return []crashMode{crashMode(vfs.CrashDrop), crashMode(vfs.CrashRandom), crashMode(vfs.CrashTorn), killed}[w.rng.IntN(4)]
}

var (
	errPowerCut = errors.New("simulated power cut")
	errEIO      = &os.PathError{Op: "simulated", Path: "disk", Err: syscall.EIO}
)

// disk is what is wrong with a member's disk, or soon will be.
type disk struct {
	changes int // I/Os so far that a crash could fall on, over all lives
	// cutAt is the number of the change before which the power goes; 0: none.
	cutAt int
	// cutAgain is after how many more changes it goes once more; 0: never. That
	// does happen, also when faults have ended: recovering is also what comes then.
	cutAgain int
	relapse  bool // cutAt is that
	// fail says what becomes of the next operation it returns an error for.
	fail func(vfs.Op) error
	// hurt: a fault has struck in this life, so the member may give up.
	hurt bool
	full bool
	// damaged: a file was changed behind the member's back. mirror is the disk before.
	damaged bool
	mirror  *vfs.Mem
	rotten  rot
}

// rot is one bit that was flipped.
type rot struct {
	name   string
	at     int64
	around [16]byte // as it is now
	mask   byte
}

// renew begins another life.
func (d *disk) renew() {
	d.hurt = d.full
}

// inject decides over one operation.
func (m *member) inject(op vfs.Op) error {
	if m.dead {
		return errPowerCut
	}
	d := &m.disk
	if op.Kind.Changes() {
		if d.changes++; d.changes == d.cutAt {
			m.dead = true
			d.cutAt, d.relapse = 0, false
			if d.cutAgain > 0 {
				d.cutAt, d.cutAgain, d.relapse = d.changes+d.cutAgain, 0, true
			}
			return errPowerCut
		}
	}
	if d.fail != nil {
		if err := d.fail(op); err != nil {
			d.fail, d.hurt = nil, true
			return err
		}
	}
	return nil
}

// lose leaves of the disk what a crash leaves.
func (m *member) lose(mode crashMode) {
	m.dead = false
	m.disk.renew()
	if mode == killed {
		m.mem.Kill()
		return
	}
	m.mem = m.mem.Crash(m.w.rng, vfs.CrashMode(mode))
}

// failNext has the next operation of a kind fail.
func (m *member) failNext(kind vfs.Kind, in string, err error) {
	m.disk.fail = func(op vfs.Op) error {
		if op.Kind == kind && strings.Contains(op.Name, in) {
			return err
		}
		return nil
	}
}

// fill leaves the disk with room for so many bytes more; release takes that back.
func (m *member) fill(room int64) {
	const huge = 1 << 50
	m.mem.SetCapacity(huge)
	free, err := m.mem.Free("/")
	if err != nil {
		m.w.fail("%s: %v", m.name, err)
	}
	m.mem.SetCapacity(huge - int64(free) + room)
	m.disk.full, m.disk.hurt = true, true
}

func (m *member) release() {
	m.mem.SetCapacity(0)
	m.disk.full = false
}

// rot flips a bit of a file at rest where the loss can be told from a crash: in
// a checkpoint, or in a part of the log that a later segment vouches for. The
// member must be down.
func (m *member) rot() bool {
	w := m.w
	var names []string
	if ns, err := m.mem.ReadDir("data/checkpoints"); err == nil {
		for _, n := range ns {
			if strings.HasSuffix(n, ".db") {
				names = append(names, path.Join("data/checkpoints", n))
			}
		}
	}
	if ns, err := m.mem.ReadDir("data/log"); err == nil {
		for i, n := range ns {
			if i+1 < len(ns) && strings.HasSuffix(n, ".wal") && strings.HasSuffix(ns[i+1], ".wal") {
				names = append(names, path.Join("data/log", n))
			}
		}
	}
	if len(names) == 0 {
		return false
	}
	if m.disk.damaged {
		return false // one at a time: see mended
	}
	m.disk.mirror = m.mem.Crash(w.rng, vfs.CrashKeep)
	r := rot{name: names[w.rng.IntN(len(names))], mask: 1 << w.rng.IntN(8)}
	done := false
	m.patch(r.name, func(f vfs.File, size int64) error {
		if done = size > 0; !done {
			return nil
		}
		r.at = w.rng.Int64N(size)
		return r.flip(f)
	})
	m.disk.damaged, m.disk.rotten = done, r
	return done
}

// mended ends a damage that a start survived, so that the next one is again the only one.
func (m *member) mended() {
	m.disk.damaged, m.disk.mirror = false, nil
	r := m.disk.rotten
	m.disk.rotten = rot{}
	if _, err := m.mem.Stat(r.name); r.name == "" || err != nil {
		return
	}
	m.patch(r.name, func(f vfs.File, _ int64) error {
		var now [16]byte
		if n, _ := f.ReadAt(now[:], r.at); n == 0 || now != r.around {
			return nil // written anew since
		}
		return r.flip(f)
	})
}

func (r *rot) flip(f vfs.File) error {
	var b [1]byte
	if _, err := f.ReadAt(b[:], r.at); err != nil {
		return err
	}
	b[0] ^= r.mask
	if _, err := f.WriteAt(b[:], r.at); err != nil {
		return err
	}
	_, err := f.ReadAt(r.around[:], r.at)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// patch changes a file behind its owner's back.
func (m *member) patch(name string, do func(f vfs.File, size int64) error) {
	f, err := m.mem.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		m.w.fail("patch %s: %v", name, err)
		return
	}
	size, err := f.Size()
	if err == nil {
		err = do(f, size)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		m.w.fail("patch %s: %v", name, err)
	}
}
