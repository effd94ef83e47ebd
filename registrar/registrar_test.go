package registrar

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/probe"
)

// checks answers probes by target.
type checks struct {
	mu sync.Mutex
	by map[string]discovery.Status
}

func (c *checks) set(target string, s discovery.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]discovery.Status{}
	}
	c.by[target] = s
}

func (c *checks) probe(_ context.Context, ch discovery.Check) probe.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.by[ch.Target]; s != discovery.StatusUnknown {
		return probe.Result{Status: s, Output: "it is " + s.String()}
	}
	return probe.Result{Status: discovery.StatusCritical, Output: "refused"}
}

func config(t *testing.T, yaml string) Config {
	t.Helper()
	c, err := Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const plainConfig = `
node: {name: h1, addr: 10.0.0.1}
services:
  - {name: web, ports: {http: 8080}}
  - {name: db, ports: {pg: 5432}, tags: [primary]}
`

const checkedConfig = `
node: {name: h1, addr: 10.0.0.1}
drain: {delay: 10s}
services:
  - name: web
    ports: {http: 8080}
    checks: [{tcp: http, interval: 1s}]
`

func start(t *testing.T, f *fake, c *checks, cfg Config) *Registrar {
	t.Helper()
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(1, 2))
	r, err := Open(t.Context(), cfg, Options{Store: f, Probe: c.probe, Random: func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return rnd.Float64()
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(context.WithoutCancel(t.Context())) })
	return r
}

// pass lets time go by in the bubble, and everything finish that falls due at
// the very end of it: so the fake's fields may be read.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// eventually waits in the bubble until the store shows want, at most for within.
func eventually(t *testing.T, f *fake, want string, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		synctest.Wait()
		if f.view() == want {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("after %v the store shows %s, want %s", within, f.view(), want)
		}
		pass(50 * time.Millisecond)
	}
}

const bothUp = "[default/db/h1-db PASSING default/web/h1-web PASSING]"

func TestServicesWithoutChecksAreRegisteredAtOnceUnderOneLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, &checks{}, config(t, plainConfig))
		eventually(t, f, bothUp, 0)
		if f.writes != 1 || f.grants != 1 {
			t.Fatalf("%d writes, %d leases", f.writes, f.grants)
		}
		rec := f.snapshot()[discovery.Ref{NS: "default", Svc: "db", ID: "h1-db"}]
		if rec.Instance.Owner != "h1" || rec.Instance.Epoch == 0 || rec.Instance.Tags[0] != "primary" || rec.Instance.Endpoints[0].Addr != "10.0.0.1" {
			t.Fatalf("stored %+v", rec.Instance)
		}
		pass(10 * time.Minute)
		if f.writes != 1 || f.grants != 1 || f.view() != bothUp {
			t.Fatalf("after ten quiet minutes: %d writes, %d leases, %s", f.writes, f.grants, f.view())
		}
		for i := 1; i < len(f.renewals); i++ {
			if gap := f.renewals[i].Sub(f.renewals[i-1]); gap < 9*time.Second || gap > 11*time.Second {
				t.Fatalf("renewed after %v", gap)
			}
		}
		if s := r.Status(); !s.Ready || len(s.Registered) != 2 {
			t.Fatalf("status %+v", s)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(f.recs) != 0 || len(f.leases) != 0 {
			t.Fatalf("left behind: %v %v", f.recs, f.leases)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Fatalf("closing again: %v", err)
		}
	})
}

func TestRegistrationWaitsForTheFirstPassAndHealthIsWrittenOnTransitionsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFake(), &checks{}
		r := start(t, f, c, config(t, checkedConfig))
		pass(time.Minute)
		if f.view() != "[]" || f.writes != 0 {
			t.Fatalf("registered before the first pass: %s", f.view())
		}
		if s := r.Status(); s.Ready || fmt.Sprint(s.Pending) != "[default/web/h1-web]" {
			t.Fatalf("status %+v", s)
		}
		c.set("10.0.0.1:8080", discovery.StatusPassing)
		eventually(t, f, "[default/web/h1-web PASSING]", time.Second)
		pass(time.Minute)
		if f.writes != 1 {
			t.Fatalf("%d writes", f.writes)
		}
		c.set("10.0.0.1:8080", discovery.StatusCritical)
		eventually(t, f, "[default/web/h1-web CRITICAL]", 3*time.Second+100*time.Millisecond) // interval × fall
		pass(time.Minute)
		c.set("10.0.0.1:8080", discovery.StatusWarning)
		eventually(t, f, "[default/web/h1-web WARNING]", 2*time.Second+100*time.Millisecond)
		if f.writes != 3 || fmt.Sprint(f.health) != "[h1-web=CRITICAL h1-web=WARNING]" {
			t.Fatalf("%d writes, %v", f.writes, f.health)
		}
		h := f.snapshot()[discovery.Ref{NS: "default", Svc: "web", ID: "h1-web"}].Health
		if h.Transitions != 2 || h.Checks["tcp"] != discovery.StatusWarning || h.Reason != "tcp: it is WARNING" || h.SinceUnixMS == 0 {
			t.Fatalf("health %+v", h)
		}
	})
}

func TestHealthIsWrittenAtMostOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFake(), &checks{}
		cfg := config(t, strings.Replace(checkedConfig, "interval: 1s", "interval: 100ms, rise: 1, fall: 1", 1))
		start(t, f, c, cfg)
		c.set("10.0.0.1:8080", discovery.StatusPassing)
		eventually(t, f, "[default/web/h1-web PASSING]", time.Second)
		for i := range 100 { // flaps every 100 ms for 10 s
			c.set("10.0.0.1:8080", []discovery.Status{discovery.StatusCritical, discovery.StatusPassing}[i%2])
			pass(100 * time.Millisecond)
		}
		if n := len(f.health); n > 11 {
			t.Fatalf("%d writes in ten seconds", n)
		}
		c.set("10.0.0.1:8080", discovery.StatusPassing)
		eventually(t, f, "[default/web/h1-web PASSING]", 1200*time.Millisecond)
	})
}

func TestDrainComesBeforeDeregistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFake(), &checks{}
		c.set("10.0.0.1:8080", discovery.StatusPassing)
		r := start(t, f, c, config(t, checkedConfig))
		eventually(t, f, "[default/web/h1-web PASSING]", 2*time.Second)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- r.Drain(t.Context()) }()
		synctest.Wait()
		if f.view() != "[default/web/h1-web DRAINING]" {
			t.Fatalf("while draining: %s", f.view())
		}
		c.set("10.0.0.1:8080", discovery.StatusCritical) // a failing check doesn't undo it
		if err := <-done; err != nil || time.Since(began) != 10*time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		if f.view() != "[default/web/h1-web DRAINING]" {
			t.Fatalf("before closing: %s", f.view())
		}
		if err := r.Close(t.Context()); err != nil || f.view() != "[]" {
			t.Fatalf("%v, %s", err, f.view())
		}
	})
}

func TestDrainCanBeCutShortAndDoesNotWaitForAStoreThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, &checks{}, config(t, plainConfig))
		eventually(t, f, bothUp, 0)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		began := time.Now()
		if err := r.Drain(ctx); !errors.Is(err, context.Canceled) || time.Since(began) != 2*time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		f.set(func(f *fake) { f.down = true })
		if err := r.Close(t.Context()); !errors.Is(err, errDown) {
			t.Fatalf("got %v", err)
		}
		if err := r.Drain(t.Context()); !errors.Is(err, ErrClosed) {
			t.Fatalf("got %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.down = true
		r := start(t, f, &checks{}, config(t, plainConfig))
		began := time.Now()
		if err := r.Drain(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 30*time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
	})
}

func TestReloadChangesWhatIsDesiredAndKeepsTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, &checks{}, config(t, plainConfig))
		eventually(t, f, bothUp, 0)
		next := config(t, strings.Replace(plainConfig, "name: db", "name: cache", 1))
		if err := r.Reload(next); err != nil {
			t.Fatal(err)
		}
		eventually(t, f, "[default/cache/h1-cache PASSING default/web/h1-web PASSING]", 0)
		if f.grants != 1 {
			t.Fatalf("%d leases", f.grants)
		}
		before := f.writes
		bad := config(t, plainConfig)
		bad.Services[0].Name = "Not A Label"
		if err := r.Reload(bad); !errors.Is(err, ErrConfig) {
			t.Fatalf("got %v", err)
		}
		other := config(t, plainConfig)
		other.Lease.TTL = time.Minute
		if err := r.Reload(other); !errors.Is(err, ErrRestart) || !strings.Contains(err.Error(), "lease") {
			t.Fatalf("got %v", err)
		}
		pass(5 * time.Minute)
		if f.writes != before || f.view() != "[default/cache/h1-cache PASSING default/web/h1-web PASSING]" {
			t.Fatalf("a refused reload changed something: %s", f.view())
		}
	})
}

func TestAnInstanceOfAnotherOwnerIsLeftAloneAndTheOthersAreRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		web := discovery.Ref{NS: "default", Svc: "web", ID: "h1-web"}
		f.recs[web] = discovery.Record{Ref: web, Rev: 1, Instance: discovery.Instance{ID: "h1-web", NS: "default", Svc: "web", Owner: "h9"}}
		r := start(t, f, &checks{}, config(t, plainConfig))
		eventually(t, f, bothUp, 0)
		if s := r.Status(); s.Ready || fmt.Sprint(s.Blocked) != "[default/web/h1-web]" || fmt.Sprint(s.Registered) != "[default/db/h1-db]" {
			t.Fatalf("status %+v", s)
		}
		pass(5 * time.Minute)
		if f.snapshot()[web].Instance.Owner != "h9" {
			t.Fatal("it was taken over")
		}
		f.set(func(f *fake) { delete(f.recs, web) })
		pass(70 * time.Second)
		if s := r.Status(); !s.Ready || f.snapshot()[web].Instance.Owner != "h1" {
			t.Fatalf("status %+v", s)
		}
	})
}

func TestAnAddressThatComesLateIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		cfg := config(t, strings.Replace(plainConfig, "10.0.0.1", "iface:nosuch0", 1))
		r := start(t, f, &checks{}, cfg)
		pass(time.Minute)
		if s := r.Status(); f.view() != "[]" || !strings.Contains(s.Error, "nosuch0") || len(s.Pending) != 2 {
			t.Fatalf("%s, %+v", f.view(), s)
		}
		fixed := config(t, plainConfig)
		if err := r.Reload(fixed); err != nil {
			t.Fatal(err)
		}
		eventually(t, f, bothUp, time.Second)
		// Its loss deregisters nothing.
		if err := r.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if f.view() != bothUp {
			t.Fatalf("deregistered: %s", f.view())
		}
	})
}

func TestTheAPIFeedsTTLChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, &checks{}, config(t, `
node: {name: h1, addr: 10.0.0.1}
services:
  - {name: web, ports: {http: 80}, checks: [{ttl: 10s, id: self}]}
  - {name: job, ports: {http: 81}, checks: [{ttl: 10s, id: self}, {tcp: http}]}
`))
		api := r.API()
		ask := func(method, path string, header ...string) (int, string) {
			req := httptest.NewRequest(method, path, strings.NewReader("said so"))
			for _, h := range header {
				req.Header.Set(h, "x")
			}
			w := httptest.NewRecorder()
			api.ServeHTTP(w, req)
			synctest.Wait()
			return w.Code, w.Body.String()
		}
		synctest.Wait()
		for _, c := range []struct {
			method, path string
			header       []string
			want         int
		}{
			{"PUT", "/v1/pass/self", nil, http.StatusConflict}, // of two services
			{"PUT", "/v1/pass/h1-web/self", nil, http.StatusNoContent},
			{"POST", "/v1/pass/default/web/h1-web/self", nil, http.StatusNoContent},
			{"PUT", "/v1/pass/tcp", nil, http.StatusConflict}, // not a ttl check
			{"PUT", "/v1/pass/nosuch", nil, http.StatusNotFound},
			{"GET", "/v1/pass/self", nil, http.StatusMethodNotAllowed},
			{"PUT", "/v1/maybe/self", nil, http.StatusNotFound},
			{"PUT", "/v1/pass/h1-web/self", []string{"Origin"}, http.StatusForbidden},
			{"GET", "/ready", nil, http.StatusServiceUnavailable},
		} {
			if code, body := ask(c.method, c.path, c.header...); code != c.want {
				t.Errorf("%s %s: %d %s, want %d", c.method, c.path, code, body, c.want)
			}
		}
		eventually(t, f, "[default/web/h1-web PASSING]", 0)
		if code, body := ask("GET", "/v1/status"); code != 200 || !strings.Contains(body, `"output": "said so"`) || !strings.Contains(body, `"default/job/h1-job"`) {
			t.Errorf("%d %s", code, body)
		}
		pass(2 * time.Second)
		if code, body := ask("PUT", "/v1/warn/h1-web/self"); code != 204 {
			t.Errorf("%d %s", code, body)
		}
		eventually(t, f, "[default/web/h1-web WARNING]", 0)
		eventually(t, f, "[default/web/h1-web CRITICAL]", 11*time.Second)
	})
}

func TestReadyTellsWhyNot(t *testing.T) {
	for want, s := range map[string]Status{
		"draining":                 {Draining: true},
		"boom":                     {Error: "boom"},
		"in another registrar's":   {Blocked: []string{"a"}},
		"not yet registered: a, b": {Pending: []string{"a", "b"}},
		"a check is critical":      {},
	} {
		if got := s.why(); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
