package vfs

import "errors"

// faultFile follows the position of sequential calls so that each Op has an offset.
type faultFile struct {
	fs    *Fault
	name  string
	inner File
	pos   int64
}

func (f *faultFile) Read(b []byte) (int, error) {
	n, err := f.read(b, f.pos, f.inner.Read)
	f.pos += int64(n)
	return n, err
}

func (f *faultFile) ReadAt(b []byte, off int64) (int, error) {
	return f.read(b, off, func(b []byte) (int, error) { return f.inner.ReadAt(b, off) })
}

func (f *faultFile) read(b []byte, off int64, do func([]byte) (int, error)) (int, error) {
	err := f.fs.before(Op{Kind: OpRead, Name: f.name, Off: off, Len: len(b)})
	if err == nil {
		return do(b)
	}
	var rot *BitRot
	if !errors.As(err, &rot) {
		return 0, err
	}
	n, err := do(b)
	if rot.Off >= off && rot.Off < off+int64(n) {
		b[rot.Off-off] ^= rot.Mask
	}
	return n, err
}

func (f *faultFile) Write(b []byte) (int, error) {
	n, err := f.write(b, f.pos, f.inner.Write)
	f.pos += int64(n)
	return n, err
}

func (f *faultFile) WriteAt(b []byte, off int64) (int, error) {
	return f.write(b, off, func(b []byte) (int, error) { return f.inner.WriteAt(b, off) })
}

func (f *faultFile) write(b []byte, off int64, do func([]byte) (int, error)) (int, error) {
	err := f.fs.before(Op{Kind: OpWrite, Name: f.name, Off: off, Len: len(b)})
	if err == nil {
		return do(b)
	}
	var short *ShortWrite
	if errors.As(err, &short) {
		n, werr := do(b[:min(max(short.N, 0), len(b))])
		return n, errors.Join(short, werr)
	}
	var astray *Misdirected
	if errors.As(err, &astray) {
		return f.inner.WriteAt(b, astray.Off)
	}
	return 0, err
}

func (f *faultFile) Sync() error {
	if err := f.fs.before(Op{Kind: OpSync, Name: f.name}); err != nil {
		return err
	}
	return f.inner.Sync()
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.before(Op{Kind: OpTruncate, Name: f.name, Len: int(size)}); err != nil {
		return err
	}
	return f.inner.Truncate(size)
}

func (f *faultFile) Preallocate(size int64) error {
	if err := f.fs.before(Op{Kind: OpPreallocate, Name: f.name, Len: int(size)}); err != nil {
		return err
	}
	return f.inner.Preallocate(size)
}

func (f *faultFile) Size() (int64, error) {
	if err := f.fs.before(Op{Kind: OpSize, Name: f.name}); err != nil {
		return 0, err
	}
	return f.inner.Size()
}

// Close always closes: an injected error is what the caller sees, not a leak.
func (f *faultFile) Close() error {
	err := f.fs.before(Op{Kind: OpClose, Name: f.name})
	return errors.Join(err, f.inner.Close())
}
