package transport

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func FuzzReadHello(f *testing.F) {
	f.Add(hello{streamConn, 1, 2, 3, nil}.encode())
	f.Add(hello{snapshotConn, 1, 2, 3, []string{"http://a:1", "unix://b"}}.encode())
	f.Add([]byte("GET / HTTP/1.1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if enc := h.encode(); err == nil && !bytes.Equal(enc, b[:len(enc)]) {
			t.Fatalf("accepted %x, which is not the encoding of %+v", b, h)
		}
	})
}

// framesOf cuts b into frames of the lengths that cuts gives, and writes them.
func framesOf(t testing.TB, b, cuts []byte) (stream []byte, frames [][]byte) {
	t.Helper()
	var buf bytes.Buffer
	w := bufio.NewWriter(&buf)
	for len(b) > 0 {
		n := len(b)
		if len(cuts) > 0 {
			n, cuts = min(n, int(cuts[0])+1), cuts[1:]
		}
		frames, b = append(frames, b[:n]), b[n:]
		if err := writeFrame(w, frames[len(frames)-1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), frames
}

// FuzzFrames garbles one byte of a stream of frames and cuts it: what is read is
// a prefix of what was sent, frame by frame, and never all of it.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("one two three"), []byte{2, 0, 5}, uint16(9), byte(1), uint16(0))
	f.Add([]byte("x"), []byte{}, uint16(0), byte(0xff), uint16(0)) // in a length
	f.Add(make([]byte, 300), []byte{100, 50}, uint16(4), byte(0x80), uint16(7))
	f.Fuzz(func(t *testing.T, data, cuts []byte, at uint16, flip byte, short uint16) {
		stream, sent := framesOf(t, data, cuts)
		whole := len(stream)
		stream = stream[:whole-min(int(short), whole)]
		if len(stream) > 0 {
			stream[int(at)%len(stream)] ^= flip
		}
		r := bufio.NewReader(bytes.NewReader(stream))
		n := 0
		for {
			got, err := readFrame(r)
			if err != nil {
				break
			}
			if n == len(sent) || !bytes.Equal(got, sent[n]) {
				t.Fatalf("frame %d is %x, which was never sent", n, got)
			}
			n++
		}
		if damaged := len(stream) < whole || flip != 0; len(sent) > 0 && damaged == (n == len(sent)) {
			t.Fatalf("read %d frames of %d; damaged: %t", n, len(sent), damaged)
		}
	})
}

// FuzzAnyFrames reads any bytes as frames: what comes out is what stands there.
func FuzzAnyFrames(f *testing.F) {
	one, _ := framesOf(f, []byte("one"), nil)
	f.Add(one)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x04, 0, 0, 0, 1, 2, 3, 4, 5}) // 64 MiB, it says
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for rest := b; ; {
			got, err := readFrame(r)
			if err != nil {
				return
			}
			var again bytes.Buffer
			w := bufio.NewWriter(&again)
			if err := errors.Join(writeFrame(w, got), w.Flush()); err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(rest, again.Bytes()) {
				t.Fatalf("%x was read as the frame %x", rest, got)
			}
			rest = rest[again.Len():]
		}
	})
}

// quietConn is a connection of which only the deadline matters.
type quietConn struct{ net.Conn }

func (quietConn) SetReadDeadline(time.Time) error { return nil }

// FuzzSnapshotBody sends a checkpoint in chunks over a connection that breaks or
// garbles: the receiver gets all of it and then EOF, or an error.
func FuzzSnapshotBody(f *testing.F) {
	body := bytes.Repeat([]byte("checkpoint "), 30_000)
	f.Add(uint32(0), byte(0), uint32(0))
	f.Add(uint32(0), byte(0), uint32(8))          // without its end
	f.Add(uint32(0), byte(0), uint32(9))          // in the middle of a frame
	f.Add(uint32(100), byte(1), uint32(0))        // in a frame's content
	f.Add(uint32(2), byte(0xff), uint32(0))       // in a length
	f.Add(uint32(262_149), byte(8), uint32(0))    // in a checksum
	f.Add(uint32(330_010), byte(0x40), uint32(0)) // in the empty frame that ends it
	f.Fuzz(func(t *testing.T, at uint32, flip byte, short uint32) {
		var buf bytes.Buffer
		w := bufio.NewWriter(&buf)
		if _, err := (&frameWriter{w: w}).Write(body); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(writeFrame(w, nil), w.Flush()); err != nil {
			t.Fatal(err)
		}
		stream := buf.Bytes()
		stream = stream[:len(stream)-int(short)%len(stream)]
		damaged := len(stream) != buf.Len() || flip != 0
		stream[int(at)%len(stream)] ^= flip
		got, err := io.ReadAll(&frameReader{r: bufio.NewReader(bytes.NewReader(stream)), conn: quietConn{}, received: func(int) {}})
		switch {
		case damaged && err == nil:
			t.Fatalf("took %d bytes of %d from a damaged stream for a whole checkpoint", len(got), len(body))
		case !damaged && (err != nil || !bytes.Equal(got, body)):
			t.Fatalf("got %d bytes of %d: %v", len(got), len(body), err)
		case !bytes.HasPrefix(body, got):
			t.Fatal("handed over what was never sent")
		}
	})
}
