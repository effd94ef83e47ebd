package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/musterhq/muster/core/simbug"
	"github.com/musterhq/muster/core/vfs"
)

const (
	formatVersion = 1
	headerSize    = vfs.Sector
	suffix        = ".wal"
	tempName      = "next" + suffix + ".tmp"
)

var magic = [8]byte{'M', 'U', 'S', 'T', 'W', 'A', 'L', 0}

// header opens a segment: where in the log it begins, and with what state.
type header struct {
	md      Metadata
	salt    uint64
	seq     uint64 // rises by one from segment to segment
	pos     Position
	hard    hardState
	prevEnd int64 // where the valid part of the segment before ends
	reset   bool  // everything before this segment is void
}

func (h header) name() string {
	return fmt.Sprintf("%016x-%016x%s", h.seq, h.pos.Index, suffix)
}

// parseName reports whether name is a segment's.
func parseName(name string) (seq uint64, ok bool) {
	stem, ok := strings.CutSuffix(name, suffix)
	if !ok || len(stem) != 33 {
		return 0, false
	}
	seq, err := strconv.ParseUint(stem[:16], 16, 64)
	index, err2 := strconv.ParseUint(stem[17:], 16, 64)
	if err != nil || err2 != nil {
		return 0, false
	}
	return seq, name == header{seq: seq, pos: Position{Index: index}}.name()
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(b, magic[:])
	le.PutUint32(b[8:], formatVersion)
	var flags uint32
	if h.reset {
		flags |= 1
	}
	if h.hard.set {
		flags |= 2
	}
	le.PutUint32(b[12:], flags)
	for i, v := range []uint64{
		h.salt, h.md.NodeID, h.md.ClusterID, h.seq, h.pos.Index, h.pos.Term,
		h.hard.term, h.hard.vote, h.hard.commit, uint64(h.prevEnd),
	} {
		le.PutUint64(b[16+8*i:], v)
	}
	le.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return b
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, errors.New("segment header is cut short")
	}
	le := binary.LittleEndian
	if [8]byte(b) != magic {
		return header{}, errors.New("segment header has no magic number")
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli) != le.Uint32(b[headerSize-4:headerSize]) {
		return header{}, errors.New("segment header fails its checksum")
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return header{}, fmt.Errorf("%w %d: this release knows version %d; run the release that wrote it, or a newer one", ErrVersion, v, formatVersion)
	}
	var v [10]uint64
	for i := range v {
		v[i] = le.Uint64(b[16+8*i:])
	}
	flags := le.Uint32(b[12:])
	return header{
		salt: v[0], md: Metadata{v[1], v[2]}, seq: v[3], pos: Position{v[4], v[5]},
		hard:    hardState{set: flags&2 != 0, term: v[6], vote: v[7], commit: v[8]},
		prevEnd: int64(v[9]), reset: flags&1 != 0,
	}, nil
}

// saltFor makes a value that no other segment of this log had: stale bytes of
// one must never pass for another's.
func (c Config) saltFor(h header) uint64 {
	x := h.md.NodeID ^ h.md.ClusterID<<1 ^ h.seq<<32 ^ uint64(c.Now().UnixNano()) ^ uint64(h.prevEnd)<<7
	x += 0x9e3779b97f4a7c15 // splitmix64
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// create makes a segment out of a header and payloads of batches, durable and
// preallocated before its rename makes it part of the log. It returns the file,
// the segment, and the offset behind the payloads.
func (c Config) create(h header, payloads [][]byte, room int64) (_ vfs.File, _ segment, end int64, err error) {
	h.salt = c.saltFor(h)
	seed := crcSeed(h.salt, h.seq)
	content := h.encode()
	for _, p := range payloads {
		b := append(make([]byte, batchHeaderSize, batchHeaderSize+len(p)+batchAlign), p...)
		content = append(content, frameBatch(b, seed, int64(len(content)), headerSize, kindData)...)
	}
	end = int64(len(content))
	size := max(c.SegmentSize, end+room)

	temp := filepath.Join(c.Dir, tempName)
	f, err := c.FS.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, vfs.FilePerm)
	if err != nil {
		return nil, segment{}, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := f.Preallocate(size); err != nil {
		return nil, segment{}, 0, err
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, segment{}, 0, err
	}
	if !c.NoSync {
		if err := f.Sync(); err != nil {
			return nil, segment{}, 0, err
		}
	}
	if err := c.FS.Rename(temp, filepath.Join(c.Dir, h.name())); err != nil {
		return nil, segment{}, 0, err
	}
	if err := c.syncDir(); err != nil {
		return nil, segment{}, 0, err
	}
	return f, segment{header: h, name: h.name(), size: size}, end, nil
}

func (c Config) syncDir() error {
	if c.NoSync || simbug.On(simbug.SkipDirSync) {
		return nil
	}
	return c.FS.SyncDir(c.Dir)
}

// Create makes a new, empty log whose first entry will be after.Index+1.
func Create(cfg Config, md Metadata, after Position) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := vfs.EnsureDir(cfg.FS, cfg.Dir); err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	names, err := cfg.FS.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("wal: %w", err)
	}
	for _, n := range names {
		if _, ok := parseName(n); ok {
			return nil, fmt.Errorf("wal: %w: %s", ErrExist, filepath.Join(cfg.Dir, n))
		}
	}
	l := &Log{cfg: cfg, md: md}
	l.now.last, l.disk.last = after, after
	if err := l.begin(header{md: md, seq: 1, pos: after}, nil, 0); err != nil {
		return nil, fmt.Errorf("wal: create in %s: %w", cfg.Dir, err)
	}
	return l, nil
}

// begin creates a segment and makes it the open one.
func (l *Log) begin(h header, payloads [][]byte, room int64) error {
	f, seg, end, err := l.cfg.create(h, payloads, room)
	if err != nil {
		return err
	}
	l.segs = append(l.segs, seg)
	l.file, l.crc = f, crcSeed(seg.salt, seg.seq)
	l.off, l.synced = end, end
	return nil
}
