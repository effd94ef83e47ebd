package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(s string) []discovery.Status {
	var out []discovery.Status
	for _, c := range strings.Fields(s) {
		out = append(out, map[string]discovery.Status{"P": discovery.StatusPassing, "W": discovery.StatusWarning, "C": discovery.StatusCritical, "U": discovery.StatusUnknown}[c])
	}
	return out
}

func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		rise, fall      int
		results, states string
	}{
		{2, 3, "C P C C P P C W C C C P W", "C P P P P P P P W W C C W"}, // the example of Tracker's comment
		{1, 1, "P C W P C", "P C W P C"},
		{2, 3, "W C C C P P", "W W W C C P"},
		{3, 1, "C W P C P P P", "C W W C C C P"},
		{2, 2, "P U U", "P P C"},
		{0, 0, "C P C", "C P C"},
	} {
		tr := NewTracker(c.rise, c.fall)
		want := parse(c.states)
		for i, r := range parse(c.results) {
			before := tr.Status()
			changed := tr.Observe(r)
			if tr.Status() != want[i] || changed != (before != want[i]) {
				t.Errorf("rise %d fall %d, %s: result %d gives %v (changed %v), want %v", c.rise, c.fall, c.results, i, tr.Status(), changed, want[i])
			}
		}
	}
}

func TestHTTPAnswersBecomeStatuses(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &code)
		if code == 302 {
			w.Header().Set("Location", "/200")
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(strings.Repeat("é", 4000)))
	}))
	defer srv.Close()
	var p Prober
	for code, want := range map[int]discovery.Status{
		200: discovery.StatusPassing, 203: discovery.StatusPassing, 429: discovery.StatusWarning,
		302: discovery.StatusCritical, 404: discovery.StatusCritical, 503: discovery.StatusCritical,
	} {
		r := p.Probe(t.Context(), discovery.Check{Kind: discovery.CheckHTTP, Target: fmt.Sprintf("%s/%d", srv.URL, code)})
		if r.Status != want || len(r.Output) > MaxOutput || !strings.Contains(r.Output, fmt.Sprint(code)) {
			t.Errorf("%d: %v, %d bytes: %.80s", code, r.Status, len(r.Output), r.Output)
		}
	}
	r := p.Probe(t.Context(), discovery.Check{Kind: discovery.CheckTCP, Target: srv.Listener.Addr().String()})
	if r.Status != discovery.StatusPassing {
		t.Errorf("tcp: %+v", r)
	}
	srv.Close()
	for _, c := range []discovery.Check{{Kind: discovery.CheckHTTP, Target: srv.URL}, {Kind: discovery.CheckTCP, Target: srv.Listener.Addr().String()}} {
		if r := p.Probe(t.Context(), c); r.Status != discovery.StatusCritical || !strings.Contains(r.Output, "refused") {
			t.Errorf("closed port: %+v", r)
		}
	}
}

func TestASilentServiceTimesOut(t *testing.T) {
	p := Prober{Dial: func(context.Context, string, string) (net.Conn, error) {
		c, s := net.Pipe()
		go func() {
			b := make([]byte, 1024)
			for {
				if _, err := s.Read(b); err != nil {
					return
				}
			}
		}()
		return c, nil
	}}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		r := p.Probe(ctx, discovery.Check{Kind: discovery.CheckHTTP, Target: "http://service/"})
		if r.Status != discovery.StatusCritical || r.Output != "no answer within the time-out" || time.Since(start) != 3*time.Second {
			t.Fatalf("%+v after %v", r, time.Since(start))
		}
	})
}

// script answers probes and notes changes.
type script struct {
	mu      sync.Mutex
	status  discovery.Status
	times   []time.Time
	changes []discovery.Status
}

func (s *script) probe(context.Context, discovery.Check) Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
	return Result{Status: s.status, Output: s.status.String()}
}

func (s *script) changed(_ Key, st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, st.Status)
}

func (s *script) set(st discovery.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = st
}

// open starts a runner whose jitter is half of what it may be unless told otherwise.
func open(t *testing.T, cfg Config) *Runner {
	t.Helper()
	if cfg.Random == nil {
		cfg.Random = func() float64 { return 0.5 }
	}
	r, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

var web = Key{Instance: discovery.Ref{NS: "default", Svc: "web", ID: "a"}, Check: "tcp"}

func TestTheRunnerKeepsTheIntervalAfterARandomStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{status: discovery.StatusPassing}
		numbers := []float64{0.5, 0.25}
		r := open(t, Config{Probe: s.probe, OnChange: s.changed, Random: func() float64 {
			n := numbers[0]
			numbers = numbers[1:]
			return n
		}})
		start := time.Now()
		if err := r.Set(map[Key]discovery.Check{web: {Kind: discovery.CheckTCP, Target: "h:1", Interval: 8 * time.Second}}); err != nil {
			t.Fatal(err)
		}
		if st, ok := r.State(web); !ok || st.Status != discovery.StatusCritical || st.Served {
			t.Fatalf("at first: %+v", st)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		var got []string
		for _, at := range s.times {
			got = append(got, at.Sub(start).String())
		}
		if fmt.Sprint(got) != "[500ms 2.5s 10.5s 18.5s]" {
			t.Fatalf("probes at %v", got)
		}
		s.set(discovery.StatusCritical)
		time.Sleep(20 * time.Second) // 26.5, 34.5
		if st, _ := r.State(web); st.Status != discovery.StatusPassing || st.Last != discovery.StatusCritical {
			t.Fatalf("after two failures: %+v", st)
		}
		time.Sleep(3 * time.Second) // 42.5
		synctest.Wait()
		if st, _ := r.State(web); st.Status != discovery.StatusCritical || st.Output != "CRITICAL" {
			t.Fatalf("after three failures: %+v", st)
		}
		if fmt.Sprint(s.changes) != "[PASSING CRITICAL]" {
			t.Fatalf("changes %v", s.changes)
		}
	})
}

func TestTTLChecksBelieveWhatTheyAreToldForTheirTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		r := open(t, Config{OnChange: s.changed})
		k := Key{Instance: web.Instance, Check: "self"}
		if err := r.Set(map[Key]discovery.Check{k: {Kind: discovery.CheckTTL, TTL: 10 * time.Second}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for range 5 {
			if err := r.Report(k, discovery.StatusPassing, strings.Repeat("x", 2*MaxOutput)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(9 * time.Second)
		}
		synctest.Wait()
		if st, _ := r.State(k); st.Status != discovery.StatusPassing || len(st.Output) != MaxOutput {
			t.Fatalf("%v, %d bytes", st.Status, len(st.Output))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if st, _ := r.State(k); st.Status != discovery.StatusCritical || st.Output != "nothing reported for 10s" {
			t.Fatalf("%+v", st)
		}
		if err := r.Report(k, discovery.StatusWarning, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if fmt.Sprint(s.changes) != "[CRITICAL PASSING CRITICAL WARNING]" {
			t.Fatalf("changes %v", s.changes)
		}
		if err := r.Report(Key{}, discovery.StatusPassing, ""); !errors.Is(err, ErrNoCheck) {
			t.Fatalf("got %v", err)
		}
		if err := r.Report(k, discovery.StatusDraining, ""); !errors.Is(err, discovery.ErrInvalid) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestOnlySoManyProbesRunAtOnceAndWaitingCostsNoTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most, timeouts atomic.Int32
		r := open(t, Config{Parallel: 3, Probe: func(ctx context.Context, _ discovery.Check) Result {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
				timeouts.Add(1)
			}
			return Result{Status: discovery.StatusPassing}
		}})
		checks := map[Key]discovery.Check{}
		for i := range 30 {
			checks[Key{Instance: web.Instance, Check: fmt.Sprint("c", i)}] = discovery.Check{Kind: discovery.CheckTCP, Target: "h:1", Interval: 10 * time.Second, Timeout: time.Second}
		}
		if err := r.Set(checks); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if most.Load() != 3 || timeouts.Load() != 0 {
			t.Fatalf("%d at once, %d time-outs", most.Load(), timeouts.Load())
		}
		for k, st := range r.States() {
			if st.Status != discovery.StatusPassing {
				t.Fatalf("%s: %+v", k, st)
			}
		}
	})
}

func TestSetKeepsTheStateOfWhatStaysTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{status: discovery.StatusPassing}
		r := open(t, Config{Probe: s.probe})
		same := discovery.Check{Kind: discovery.CheckTCP, Target: "h:1", Interval: time.Second}
		other := Key{Instance: web.Instance, Check: "other"}
		if err := r.Set(map[Key]discovery.Check{web: same, other: same}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		changed := same
		changed.Target = "h:2"
		if err := r.Set(map[Key]discovery.Check{web: same, other: {Kind: discovery.CheckTCP, Target: "nonsense"}}); !errors.Is(err, discovery.ErrInvalid) {
			t.Fatalf("got %v", err)
		}
		if err := r.Set(map[Key]discovery.Check{web: same, other: changed}); err != nil {
			t.Fatal(err)
		}
		if st, _ := r.State(web); !st.Served {
			t.Fatal("an unchanged check started anew")
		}
		if st, _ := r.State(other); st.Served {
			t.Fatal("a changed check kept its state")
		}
		if err := r.Set(map[Key]discovery.Check{web: changed}); err != nil {
			t.Fatal(err)
		}
		s.set(discovery.StatusCritical)
		time.Sleep(1500 * time.Millisecond)
		if st, _ := r.State(web); st.Decided {
			t.Fatalf("decided too early: %+v", st)
		}
		time.Sleep(3 * time.Second)
		if st, _ := r.State(web); !st.Decided || st.Served {
			t.Fatalf("not decided after three failures: %+v", st)
		}
		if err := r.Set(nil); err != nil || len(r.States()) != 0 {
			t.Fatalf("%v, %v", err, r.States())
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Set(nil); !errors.Is(err, ErrClosed) {
			t.Fatalf("got %v", err)
		}
	})
}
