package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// toldConn answers with what it holds and notes what it is told.
type toldConn struct {
	net.Conn
	answer *bytes.Reader
	told   bytes.Buffer
	closed bool
}

func (c *toldConn) Read(b []byte) (int, error)      { return c.answer.Read(b) }
func (c *toldConn) Write(b []byte) (int, error)     { return c.told.Write(b) }
func (c *toldConn) Close() error                    { c.closed = true; return nil }
func (c *toldConn) SetDeadline(time.Time) error     { return nil }
func (c *toldConn) SetReadDeadline(time.Time) error { return nil }

// FuzzAnswer asks a peer that answers anything about the cluster: what is taken
// for its answer stands there behind a welcome, a refusal is handed on with its
// reason, and the connection is closed whatever comes.
func FuzzAnswer(f *testing.F) {
	answer := func(s status, reason string, info []byte) []byte {
		var b bytes.Buffer
		w := bufio.NewWriter(&b)
		if err := errors.Join(writeStatus(w, s, reason), writeFrame(w, info), w.Flush()); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(answer(statusOK, "", []byte(`{"version":1}`)))
	f.Add(answer(statusRefused, "another cluster", nil))
	f.Add(answer(statusRemoved, "gone", []byte("x")))
	f.Add(answer(statusOK, "a welcome with words", nil)[:30])
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n"))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := &toldConn{answer: bytes.NewReader(b)}
		got, err := Ask(t.Context(), "http://a:1", func(context.Context, string) (net.Conn, error) { return conn, nil })
		if !conn.closed {
			t.Fatal("the connection is left open")
		}
		if !bytes.Equal(conn.told.Bytes(), hello{kind: infoConn}.encode()) {
			t.Fatalf("it was told %x", conn.told.Bytes())
		}
		end := 2 // of the welcome
		if len(b) > 1 {
			end += int(b[1])
		}
		if len(b) < end {
			if err == nil {
				t.Fatalf("%x was taken for an answer: %x", b, got)
			}
			return
		}
		reason, rest := string(b[2:end]), b[end:]
		switch removed := errors.Is(err, ErrRemoved); {
		case removed != (status(b[0]) == statusRemoved), !removed && errors.Is(err, ErrRefused) != (b[0] > 0):
			t.Fatalf("%x: got %v", b, err)
		case b[0] > 0 && !strings.HasSuffix(err.Error(), reason):
			t.Fatalf("%q is not the reason %q", err, reason)
		case err == nil:
			var again bytes.Buffer
			w := bufio.NewWriter(&again)
			if err := errors.Join(writeFrame(w, got), w.Flush()); err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(rest, again.Bytes()) {
				t.Fatalf("%x was read as the answer %x", b, got)
			}
		}
	})
}
