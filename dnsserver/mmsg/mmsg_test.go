package mmsg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t testing.TB, addr string, cfg ListenConfig) *Conn {
	t.Helper()
	c, err := Listen(t.Context(), netip.MustParseAddrPort(addr), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dial(t testing.TB, to *Conn, host string) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(host), to.LocalAddr().Port()))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// echo sends every datagram back until the socket is closed.
func echo(c *Conn, done chan<- error) {
	b := c.NewBatch(8, 64, 64)
	for {
		n, err := b.Recv()
		if err != nil {
			done <- err
			return
		}
		for i := range n {
			if !b.Truncated(i) {
				b.Queue(i, copy(b.Out(i), b.Packet(i)))
			}
		}
		if err := b.Flush(); err != nil {
			done <- err
			return
		}
	}
}

func TestEveryDatagramGetsItsReply(t *testing.T) {
	for _, c := range []struct{ listen, ask string }{
		{"127.0.0.1:0", "127.0.0.1"}, {"0.0.0.0:0", "127.0.0.3"}, {"[::1]:0", "::1"}, {"[::]:0", "::1"}, {"[::]:0", "127.0.0.2"},
	} {
		t.Run(c.listen+" "+c.ask, func(t *testing.T) {
			server := listen(t, c.listen, ListenConfig{})
			done := make(chan error, 1)
			go echo(server, done)
			client := dial(t, server, c.ask)
			b := client.NewBatch(20, 64, 64)
			got := map[string]bool{}
			for i := range b.Size() {
				b.Queue(i, copy(b.Out(i), fmt.Sprintf("datagram %d", i)))
				if b.Size() == 1 {
					break
				}
			}
			want := b.Size()
			if err := b.Flush(); err != nil {
				t.Fatal(err)
			}
			for len(got) < want {
				n, err := b.Recv()
				if err != nil {
					t.Fatalf("after %d replies: %v", len(got), err)
				}
				for i := range n {
					got[string(b.Packet(i))] = true
				}
			}
			if !got["datagram 0"] {
				t.Errorf("got %v", got)
			}
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Recv on a closed socket gives %v", err)
			}
		})
	}
}

func TestOverlongDatagramIsMarked(t *testing.T) {
	server := listen(t, "127.0.0.1:0", ListenConfig{})
	client := dial(t, server, "127.0.0.1")
	out := client.NewBatch(1, 64, 100)
	out.Queue(0, 100)
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	in := server.NewBatch(4, 64, 64)
	if n, err := in.Recv(); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if !in.Truncated(0) || len(in.Packet(0)) != 64 {
		t.Errorf("truncated %v, %d bytes", in.Truncated(0), len(in.Packet(0)))
	}
	if from := in.From(0); from != client.LocalAddr() {
		t.Errorf("from %v, want %v", from, client.LocalAddr())
	}
}

func TestSocketsSharingAPortShareItsClients(t *testing.T) {
	if !CanReusePort {
		t.Skip("not on this system")
	}
	first := listen(t, "127.0.0.1:0", ListenConfig{ReusePort: true})
	second := listen(t, first.LocalAddr().String(), ListenConfig{ReusePort: true})
	done := make(chan error, 2)
	go echo(first, done)
	go echo(second, done)
	for range 16 {
		client := dial(t, first, "127.0.0.1")
		b := client.NewBatch(1, 64, 64)
		b.Queue(0, 1)
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = first.Close(), second.Close()
	<-done
	<-done
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	server := listen(t, "0.0.0.0:0", ListenConfig{})
	done := make(chan error, 1)
	go echo(server, done)
	client := dial(t, server, "127.0.0.1")
	b := client.NewBatch(4, 64, 64)
	n := testing.AllocsPerRun(100, func() {
		b.Queue(0, 10)
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Recv(); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 && CanReusePort {
		t.Errorf("%v allocations", n)
	}
	_ = server.Close()
	<-done
}

func TestRecvEndsAtItsDeadline(t *testing.T) {
	c := listen(t, "127.0.0.1:0", ListenConfig{})
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := c.NewBatch(1, 10, 10).Recv(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}
