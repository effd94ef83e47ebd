package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/musterhq/muster/core/vfs"
)

// piece is how much is written between two syncs: small, so that the log's
// syncs never wait for much of ours.
const piece = 1 << 20

// writeTemp makes a file of what write writes, about size bytes, synced.
func (d *Dir) writeTemp(ctx context.Context, name string, size int64, pace Pace, write func(io.Writer) error) error {
	f, err := d.cfg.FS.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, vfs.FilePerm)
	if err != nil {
		return noSpace(err)
	}
	w := &pacedWriter{ctx: ctx, cfg: &d.cfg, f: f, pace: pace, buf: make([]byte, 0, min(size, piece))}
	err = write(w)
	if err == nil {
		err = w.flush()
	}
	return noSpace(errors.Join(err, f.Close()))
}

// noSpace makes a full disk recognisable.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// pacedWriter writes and syncs a file piece by piece.
type pacedWriter struct {
	ctx  context.Context // of the one Save or Install it lives in
	cfg  *Config
	f    vfs.File
	pace Pace
	buf  []byte
}

func (w *pacedWriter) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n := min(len(b), piece-len(w.buf))
		w.buf = append(w.buf, b[:n]...)
		b = b[n:]
		if len(w.buf) == piece {
			if err := w.flush(); err != nil {
				return total - len(b), err
			}
		}
	}
	return total, nil
}

func (w *pacedWriter) flush() error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if len(w.buf) == 0 {
		return nil
	}
	n, err := w.f.Write(w.buf)
	if err != nil {
		return err
	}
	start := w.cfg.Now()
	if err := w.f.Sync(); err != nil {
		return err
	}
	w.cfg.OnSync(w.cfg.Now().Sub(start))
	w.buf = w.buf[:0]
	if w.pace != nil {
		return w.pace(w.ctx, n)
	}
	return nil
}
