package registrar

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery"
)

// What a registrar does while its store is away, and after it was away itself.

// TestWhateverHappensToTheStoreItIsBackWithinTwoRenewals is trap 1 of the reference.
func TestWhateverHappensToTheStoreItIsBackWithinTwoRenewals(t *testing.T) {
	const twoRenewals = 2 * 11 * time.Second
	web := discovery.Ref{NS: "default", Svc: "web", ID: "h1-web"}
	for _, c := range []struct {
		name  string
		fault func(*fake)
	}{
		{"lease revoked", func(f *fake) {
			for id := range f.leases {
				f.dropLocked(id)
			}
		}},
		{"key deleted", func(f *fake) { delete(f.recs, web) }},
		{"health deleted", func(f *fake) {
			for ref, rec := range f.recs {
				rec.Health, rec.HealthLease = nil, 0
				f.recs[ref] = rec
			}
		}},
		{"keys taken out of the lease", func(f *fake) {
			for ref, rec := range f.recs {
				rec.Lease = 0
				f.recs[ref] = rec
			}
		}},
		{"all keys deleted", func(f *fake) { clear(f.recs) }},
		{"store emptied", func(f *fake) { clear(f.recs); clear(f.leases); f.rev = 0 }},
		{"a stray key under the lease", func(f *fake) {
			for id := range f.leases {
				ref := discovery.Ref{NS: "default", Svc: "old", ID: "stray"}
				f.recs[ref] = discovery.Record{Ref: ref, Lease: id, Rev: 1, Instance: discovery.Instance{ID: "stray", NS: "default", Svc: "old"}}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, ch := newFake(), &checks{}
				ch.set("10.0.0.1:8080", discovery.StatusPassing)
				start(t, f, ch, config(t, checkedConfig+"  - {name: db, ports: {pg: 5432}}\n"))
				eventually(t, f, bothUp, 2*time.Second)
				for round := range 20 {
					f.set(c.fault)
					pass(twoRenewals)
					if f.view() != bothUp || len(f.leases) != 1 {
						t.Fatalf("round %d: %s, %d leases", round, f.view(), len(f.leases))
					}
					for ref, rec := range f.recs {
						if (rec.Health == nil) != (ref.Svc == "db") || rec.Lease == 0 {
							t.Fatalf("round %d: %+v", round, rec)
						}
					}
				}
			})
		})
	}
}

func TestALongOutageIsMadeGoodWithinTwoRenewals(t *testing.T) {
	for _, outage := range []time.Duration{15 * time.Second, 45 * time.Second, 5 * time.Minute, 48 * time.Hour} {
		t.Run(outage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				r := start(t, f, &checks{}, config(t, plainConfig))
				eventually(t, f, bothUp, 0)
				for range 3 {
					f.set(func(f *fake) { f.down = true })
					pass(outage)
					if s := r.Status(); s.Error == "" || s.Ready {
						t.Fatalf("status %+v", s)
					}
					f.set(func(f *fake) { f.down = false })
					if took := eventually(t, f, bothUp, 22*time.Second); outage > 30*time.Second && took > 11*time.Second {
						t.Errorf("took %v", took)
					}
					pass(time.Minute)
					if s := r.Status(); !s.Ready {
						t.Fatalf("status %+v", s)
					}
				}
			})
		})
	}
}

func TestTheStoreMayBeAwayAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.down = true
		start(t, f, &checks{}, config(t, plainConfig))
		pass(24 * time.Hour)
		f.set(func(f *fake) { f.down = false })
		eventually(t, f, bothUp, 11*time.Second)
	})
}

func TestChecksRunWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFake(), &checks{}
		f.down = true
		c.set("10.0.0.1:8080", discovery.StatusPassing)
		r := start(t, f, c, config(t, checkedConfig))
		pass(5 * time.Second)
		for k, s := range r.Checks() {
			if s.Status != discovery.StatusPassing {
				t.Fatalf("%s: %+v", k, s)
			}
		}
		if len(r.Checks()) != 1 {
			t.Fatal("no check runs")
		}
	})
}

func TestAfterACrashTheLeaseIsAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFake(), &checks{}
		cfg := config(t, checkedConfig)
		cfg.Lease.File = filepath.Join(t.TempDir(), "lease.json")
		c.set("10.0.0.1:8080", discovery.StatusPassing)
		first := start(t, f, c, cfg)
		eventually(t, f, "[default/web/h1-web PASSING]", 2*time.Second)
		if _, err := Open(t.Context(), cfg, Options{Store: f}); !errors.Is(err, ErrLeaseFile) {
			t.Fatalf("a second registrar with the same file: got %v", err)
		}
		epoch := f.snapshot()[discovery.Ref{NS: "default", Svc: "web", ID: "h1-web"}].Instance.Epoch
		first.Abandon()
		pass(20 * time.Second)

		second := start(t, f, c, cfg)
		pass(time.Minute)
		rec := f.snapshot()[discovery.Ref{NS: "default", Svc: "web", ID: "h1-web"}]
		if f.grants != 1 || f.view() != "[default/web/h1-web PASSING]" || rec.Instance.Epoch <= epoch {
			t.Fatalf("%d leases, %s, epoch %d after %d", f.grants, f.view(), rec.Instance.Epoch, epoch)
		}
		second.Abandon()

		// The service died with the registrar: it is found out, although it never passed since.
		c.set("10.0.0.1:8080", discovery.StatusCritical)
		third := start(t, f, c, cfg)
		synctest.Wait()
		if f.view() != "[default/web/h1-web PASSING]" {
			t.Fatalf("judged before the checks were: %s", f.view())
		}
		eventually(t, f, "[default/web/h1-web CRITICAL]", 5*time.Second)
		third.Abandon()

		// Too late: the lease has ended.
		pass(time.Minute)
		c.set("10.0.0.1:8080", discovery.StatusPassing)
		fourth := start(t, f, c, cfg)
		eventually(t, f, "[default/web/h1-web PASSING]", 2*time.Second)
		if f.grants != 2 {
			t.Fatalf("%d leases", f.grants)
		}
		if err := fourth.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(cfg.Lease.File)
		if err != nil || strings.Contains(string(data), "lease") || !strings.Contains(string(data), `"owner":"h1"`) {
			t.Fatalf("%s, %v", data, err)
		}
	})
}

func TestALeaseFileOfAnotherOwnerOrOfGarbage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lease.json")
	if err := os.WriteFile(path, []byte(`{"lease":"7b","epoch":5,"owner":"h2"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f, m, err := openLeaseFile(path, "h1")
	if err != nil || m != (memory{}) {
		t.Fatalf("%+v, %v", m, err)
	}
	f.close()
	f, m, err = openLeaseFile(path, "h2")
	if err != nil || m.id() != 0x7b || m.Epoch != 5 {
		t.Fatalf("%+v, %v", m, err)
	}
	f.close()
	for _, garbage := range []string{`garbage`, `{"lease":"7b or so","epoch":5,"owner":"h1"}`} {
		if err := os.WriteFile(path, []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := openLeaseFile(path, "h1"); !errors.Is(err, ErrLeaseFile) || !strings.Contains(err.Error(), "repair or remove it") {
			t.Fatalf("%s: got %v", garbage, err)
		}
	}
	if _, _, err := openLeaseFile(filepath.Join(dir, "no", "such"), "h1"); !errors.Is(err, ErrLeaseFile) {
		t.Fatalf("got %v", err)
	}
}
