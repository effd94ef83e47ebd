package server

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// muxFixture is a port whose gRPC side echoes lines and whose HTTP side says hello.
func muxFixture(t *testing.T, slots int, timeout time.Duration) (m *portMux, addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counter := func() prometheus.Counter { return prometheus.NewCounter(prometheus.CounterOpts{Name: "x"}) }
	m = newPortMux(slog.New(slog.DiscardHandler), slots, lis.Addr(), counter(), counter())
	m.timeout = timeout
	m.serve(lis)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
	done := make(chan struct{}, 2)
	go func() { web.Serve(m.http); done <- struct{}{} }()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := m.grpc.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	t.Cleanup(func() {
		m.close()
		web.Close()
		<-done
		<-done
	})
	return m, lis.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func getHello(t *testing.T, addr string) {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(r.Body); string(b) != "hello" {
		t.Errorf("got %q", b)
	}
	c.Close()
}

func TestOnePortServesGRPCAndHTTP(t *testing.T) {
	_, addr := muxFixture(t, 100, time.Minute)
	c := dial(t, addr)
	// The preface in two pieces: nothing may be lost, whatever TCP does to it.
	for _, piece := range []string{preface[:7], preface[7:] + "rest"} {
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(preface)+4)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != preface+"rest" {
		t.Errorf("%q, %v", got, err)
	}
	getHello(t, addr)
	// PUT and PATCH share a letter with the preface.
	for _, method := range []string{"PUT", "PATCH", "PRI"} {
		c := dial(t, addr)
		if _, err := io.WriteString(c, method+" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		r.Body.Close()
	}
}

func TestSilentAndGarbledConnectionsHoldUpNobody(t *testing.T) {
	m, addr := muxFixture(t, 100, 50*time.Millisecond)
	var silent []net.Conn
	for range 30 {
		silent = append(silent, dial(t, addr))
	}
	half := dial(t, addr)
	io.WriteString(half, "PRI * HT")
	garbage := dial(t, addr)
	io.WriteString(garbage, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not tls\r\n\r\n")
	getHello(t, addr)
	for _, c := range append(silent, half) {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a silent connection isn't closed: %v", err)
		}
	}
	if b, err := io.ReadAll(garbage); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400") {
		t.Errorf("garbage: %q, %v", b, err)
	}
	garbage.Close()
	waitFor(t, func() bool { return len(m.slots) == 0 }, "all slots to be free again")
}

func TestConnectionsBeyondTheLimitAreClosedAtOnce(t *testing.T) {
	m, addr := muxFixture(t, 2, time.Minute)
	first, second := dial(t, addr), dial(t, addr)
	waitFor(t, func() bool { return len(m.slots) == 2 }, "two connections to be accepted")
	if _, err := dial(t, addr).Read(make([]byte, 1)); err == nil {
		t.Error("a third connection was served")
	}
	first.Close()
	second.Close()
	waitFor(t, func() bool { return len(m.slots) == 0 }, "the slots to be free again")
	getHello(t, addr)
}

func TestClosingEndsConnectionsThatNeverSaidWhatTheyAre(t *testing.T) {
	m, addr := muxFixture(t, 10, time.Hour)
	c := dial(t, addr)
	waitFor(t, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.mu.sniffing) == 1 }, "the connection")
	m.close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("still open")
	}
	if _, err := (InProcess{m.grpc}).Dial("x")(t.Context(), ""); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("dialling in process after close: %v", err)
	}
}

// waitFor polls: what it waits for happens on a goroutine that tells nobody.
func waitFor(t *testing.T, ok func() bool, what string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for " + what)
		}
	}
}
