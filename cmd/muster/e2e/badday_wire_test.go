package e2e

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestAValueOfTenMebibytesIsRefusedAndTheConnectionGoesOn(t *testing.T) {
	m := newMember(t, "m1")
	m.Start(t)
	var dials int
	cl, err := clientv3.New(clientv3.Config{
		Endpoints: []string{m.Client}, MaxCallSendMsgSize: 64 << 20,
		DialOptions: withDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			dials++
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	put(t, cl, "k", "before")
	watch := cl.Watch(watching(t), "k")
	for _, size := range []int{1536 << 10, 2 << 20, 10 << 20} {
		_, err := cl.Put(within(t, patience), "k", strings.Repeat("x", size))
		if err == nil || !strings.Contains(err.Error(), "too large") && !strings.Contains(err.Error(), "larger than max") {
			t.Errorf("a value of %d bytes: %v", size, err)
		}
		if size == 1536<<10 {
			requireError(t, "a value of 1.5 MiB", err, rpctypes.ErrRequestTooLarge)
		}
	}
	put(t, cl, "k", strings.Repeat("y", 1<<20))
	put(t, cl, "k", "after")
	requireEvents(t, watch, "", "+k="+strings.Repeat("y", 1<<20), "+k=after")
	if dials != 1 {
		t.Errorf("the client has dialled %d times: the connection was broken", dials)
	}
}

func TestGarbageOnEveryPortHarmsNobody(t *testing.T) {
	c := startCluster(t, 3)
	m := c.Members[0]
	cl := connect(t, m.Client)
	put(t, cl, "k", "v")
	watch := cl.Watch(watching(t), "k", clientv3.WithCreatedNotify())
	<-watch
	for _, m := range c.Members {
		awaitAnswer(t, m.DNS, webName, 0) // it has its index
	}
	term := statusOf(t, cl, m).RaftTerm

	rng := rand.NewChaCha8([32]byte{1}) // the same garbage each time
	noise := func(n int) []byte {
		b := make([]byte, n)
		rng.Read(b)
		return b
	}
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	payloads := [][]byte{
		nil,
		{0},
		noise(1), noise(100), noise(64 << 10),
		[]byte("GET /"), []byte("GET / HTTP/1.1\r\n\r\n"), []byte("GET / HTTP/9.9\r\nHost: \x00\r\n\r\n"),
		[]byte("POST /etcdserverpb.KV/Put HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx"),
		preface[:10], preface, append(preface, noise(1000)...),
		append(preface, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0), // a frame of 16 MiB
		{0x16, 0x03, 0x01, 0x02, 0x00, 0x01},                // TLS
		[]byte(strings.Repeat("A", 1<<20)),
	}
	for _, addr := range []string{m.Client, m.Peer, m.DNS} {
		for _, p := range payloads {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatalf("%s: %v", addr, err)
			}
			conn.SetDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write(p) // the member may have hung up already
			if tcp, ok := conn.(*net.TCPConn); ok {
				tcp.CloseWrite()
			}
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}
	udp, err := net.Dial("udp", m.DNS)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for n := range 1400 {
		_, _ = udp.Write(noise(n))
	}

	for _, m := range c.Members {
		one := connect(t, m.Client)
		put(t, one, "k", m.Name)
		resp, err := http.Get("http://" + m.Client + "/health")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: /health is %d", m.Name, resp.StatusCode)
		}
		q := new(dns.Msg).SetQuestion("muster.internal.", dns.TypeSOA)
		for _, network := range []string{"udp", "tcp"} {
			r, _, err := (&dns.Client{Net: network, Timeout: patience}).Exchange(q, m.DNS)
			if err != nil || len(r.Answer) != 1 {
				t.Errorf("%s over %s: %v, %v", m.Name, network, r, err)
			}
		}
		select {
		case <-m.Done:
			t.Errorf("%s has ended", m.Name)
		default:
		}
	}
	requireEvents(t, watch, "", "+k=m1", "+k=m2", "+k=m3")
	if st := statusOf(t, cl, m); st.RaftTerm != term || len(st.Errors) > 0 {
		t.Errorf("the term went from %d to %d, errors %v", term, st.RaftTerm, st.Errors)
	}
	for _, m := range c.Members {
		if i := strings.Index(m.Log(), `"level":"error"`); i >= 0 {
			t.Errorf("%s logged garbage as an error of its own: %s", m.Name, firstLine(m.Log()[i:]))
		}
		if n := strings.Count(m.Log(), "\n"); n > 400 {
			t.Errorf("%s logged %d lines: garbage must not fill the disk", m.Name, n)
		}
	}
	t.Logf("%d connections of garbage, 1400 datagrams", 3*len(payloads))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
