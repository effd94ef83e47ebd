package discovery

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func registration(id, owner string, epoch uint64) Registration {
	return Registration{
		Instance: Instance{ID: id, Svc: "web", Owner: owner, Epoch: epoch, Endpoints: []Endpoint{{Name: "http", Addr: "10.0.0.7", Port: 80}}},
		Health:   &Health{Status: StatusPassing},
	}
}

func ref(id string) Ref { return Ref{"default", "web", id} }

func TestRegistrationsAreBatchedWithinTheLimitsOfATransaction(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	var regs []Registration
	var refs []Ref
	for i := range 150 {
		regs = append(regs, registration(fmt.Sprintf("i%03d", i), "h1", 1))
		refs = append(refs, ref(fmt.Sprintf("i%03d", i)))
	}
	if err := r.Register(t.Context(), 7, regs...); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.txns, []int{128, 128, 44}) {
		t.Fatalf("operations a transaction: %v", f.txns)
	}
	recs, rev, err := r.List(t.Context(), "default", "web")
	if err != nil || len(recs) != 150 || rev != f.rev {
		t.Fatalf("%d records at %d: %v", len(recs), rev, err)
	}
	if rec := recs[149]; rec.Ref != ref("i149") || rec.Lease != 7 || rec.HealthLease != 7 || rec.Health.Status != StatusPassing || rec.Instance.Weight != 100 {
		t.Fatalf("got %+v", rec)
	}
	got, err := r.Fetch(t.Context(), append(refs, ref("absent"))...)
	if err != nil || len(got) != 150 {
		t.Fatalf("fetched %d: %v", len(got), err)
	}
	if err := r.Deregister(t.Context(), 7, refs...); err != nil {
		t.Fatal(err)
	}
	if len(f.kvs) != 0 {
		t.Fatalf("%d keys left", len(f.kvs))
	}
}

func TestABatchStaysBelowTheRequestLimit(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	var regs []Registration
	for i := range 40 {
		reg := registration(fmt.Sprintf("i%03d", i), "h1", 1)
		reg.Instance.Meta = map[string]string{}
		for k := range 16 {
			reg.Instance.Meta[fmt.Sprint("k", k)] = strings.Repeat("x", 8000)
		}
		regs = append(regs, reg)
	}
	if err := r.Register(t.Context(), 7, regs...); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.txns, []int{16, 16, 16, 16, 16}) { // 8 instances of 128 kB each
		t.Fatalf("operations a transaction: %v", f.txns)
	}
}

func TestALaterIncarnationTakesOverAndAnotherOwnerDoesNot(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	if err := r.Register(t.Context(), 7, registration("a", "h1", 5), registration("b", "h2", 5)); err != nil {
		t.Fatal(err)
	}
	err := r.Register(t.Context(), 8, registration("a", "h1", 6), registration("b", "h1", 6), registration("c", "h1", 6))
	var ce *ConflictError
	if !errors.Is(err, ErrConflict) || !errors.As(err, &ce) || ce.Ref != ref("b") || ce.Owner != "h2" || ce.Superseded {
		t.Fatalf("got %v", err)
	}
	for id, lease := range map[string]int64{"a": 8, "b": 7, "c": 8} {
		if _, l := f.value(ref(id).InstanceKey()); l != lease {
			t.Errorf("%s is under lease %d, want %d", id, l, lease)
		}
	}
	err = r.Register(t.Context(), 7, registration("a", "h1", 5))
	if !errors.As(err, &ce) || !ce.Superseded {
		t.Fatalf("an earlier incarnation: got %v", err)
	}
	if _, l := f.value(ref("a").InstanceKey()); l != 8 {
		t.Fatal("an earlier incarnation took over")
	}
}

func TestUndecodableAndHandWrittenRecords(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	f.set(ref("bad").InstanceKey(), "garbage", 0)
	f.set(ref("hand").InstanceKey(), `{"endpoints":[]}`, 0)
	f.set(ref("foreign").InstanceKey(), `{"owner":"h2","epoch":1}`, 3)
	f.set(ref("foreign").HealthKey(), `garbage`, 3)
	err := r.Register(t.Context(), 7, registration("bad", "h1", 1), registration("hand", "h1", 1), registration("foreign", "h1", 1))
	if n := strings.Count(fmt.Sprint(err), "choose another id"); n != 2 {
		t.Fatalf("got %v", err)
	}
	if v, l := f.value(ref("bad").InstanceKey()); l != 7 || v[0] != '{' {
		t.Fatalf("garbage stays: %s", v)
	}
}

func TestUnknownFieldsSurviveReregistration(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	if err := r.Register(t.Context(), 7, registration("a", "h1", 1)); err != nil {
		t.Fatal(err)
	}
	v, _ := f.value(ref("a").InstanceKey())
	f.set(ref("a").InstanceKey(), v[:len(v)-1]+`,"quota":{"rps":5}}`, 7)
	f.set(ref("a").HealthKey(), `{"status":"PASSING","hold":1}`, 7)
	if err := r.Register(t.Context(), 7, registration("a", "h1", 2)); err != nil {
		t.Fatal(err)
	}
	if v, _ := f.value(ref("a").InstanceKey()); !strings.Contains(v, `"quota":{"rps":5}`) || !strings.Contains(v, `"epoch":2`) {
		t.Fatalf("got %s", v)
	}
	if v, _ := f.value(ref("a").HealthKey()); !strings.Contains(v, `"hold":1`) {
		t.Fatalf("got %s", v)
	}
	// With what Fetch read, one transaction does.
	recs, err := r.Fetch(t.Context(), ref("a"))
	if err != nil {
		t.Fatal(err)
	}
	rec := recs[ref("a")]
	reg := registration("a", "h1", 3)
	reg.Prev = &rec
	f.txns = nil
	if err := r.Register(t.Context(), 7, reg); err != nil || len(f.txns) != 1 {
		t.Fatalf("%v transactions, %v", f.txns, err)
	}
	if v, _ := f.value(ref("a").InstanceKey()); !strings.Contains(v, `"quota"`) {
		t.Fatalf("got %s", v)
	}
}

func TestInvalidRegistrationsStoreNothing(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	bad := registration("x", "h1", 1)
	bad.Instance.Svc = "Web"
	if err := r.Register(t.Context(), 7, registration("a", "h1", 1), bad); !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	if err := r.Register(t.Context(), 7, registration("a", "h1", 1), registration("a", "h1", 1)); !errors.Is(err, ErrInvalid) {
		t.Fatalf("the same twice: got %v", err)
	}
	if len(f.kvs) != 0 {
		t.Fatalf("%d keys stored", len(f.kvs))
	}
}

func TestHealthIsWrittenOnlyWhereTheLeaseHoldsTheInstance(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	if err := r.Register(t.Context(), 7, registration("a", "h1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.SetHealth(t.Context(), 7, map[Ref]Health{ref("a"): {Status: StatusCritical}}); err != nil {
		t.Fatal(err)
	}
	if v, l := f.value(ref("a").HealthKey()); v != `{"status":"CRITICAL"}` || l != 7 {
		t.Fatalf("got %s under %d", v, l)
	}
	if err := r.SetHealth(t.Context(), 8, map[Ref]Health{ref("a"): {Status: StatusPassing}}); !errors.Is(err, ErrNotHeld) {
		t.Fatalf("got %v", err)
	}
	if err := r.SetHealth(t.Context(), 7, map[Ref]Health{ref("gone"): {Status: StatusPassing}}); !errors.Is(err, ErrNotHeld) {
		t.Fatalf("got %v", err)
	}
}

func TestDeregisterLeavesOthersAlone(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	if err := r.Register(t.Context(), 7, registration("a", "h1", 1), registration("b", "h1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.Register(t.Context(), 8, registration("b", "h1", 2)); err != nil {
		t.Fatal(err)
	}
	f.set(ref("bare").HealthKey(), `{}`, 7)
	f.set(ref("foreign").HealthKey(), `{}`, 9)
	if err := r.Deregister(t.Context(), 7, ref("a"), ref("b"), ref("absent"), ref("bare"), ref("foreign")); err != nil {
		t.Fatal(err)
	}
	if v, _ := f.value(ref("bare").HealthKey()); v != "" {
		t.Fatal("health without an instance is still there")
	}
	if v, _ := f.value(ref("foreign").HealthKey()); v == "" {
		t.Fatal("another lease's health is gone")
	}
	if v, _ := f.value(ref("a").InstanceKey()); v != "" {
		t.Fatal("a is still there")
	}
	if v, _ := f.value(ref("b").InstanceKey()); v == "" {
		t.Fatal("b, of a later lease, is gone")
	}
	if err := r.Deregister(t.Context(), 0, ref("b"), ref("foreign")); err != nil {
		t.Fatal(err)
	}
	if len(f.kvs) != 0 {
		t.Fatalf("%d keys left", len(f.kvs))
	}
}

func TestEndlessContentionIsAnError(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	epoch := 0
	f.before = func() {
		epoch++
		f.set(ref("a").InstanceKey(), fmt.Sprintf(`{"owner":"h1","version":"%d"}`, epoch), 7)
	}
	if err := r.Register(t.Context(), 7, registration("a", "h1", 1)); !errors.Is(err, ErrContention) {
		t.Fatalf("got %v", err)
	}
}

func TestPoliciesKeepWhatThisReleaseDoesNotApply(t *testing.T) {
	f, c := newFake(t)
	r := NewRegistry(RegistryConfig{Store: c})
	f.set(ServiceKey("default", "web"), `{"lb_policy":"p2c","dns_ttl":1}`, 0)
	if err := r.PutService(t.Context(), Service{NS: "default", Name: "web", DNSTTL: 9, EmptyAnswer: EmptyAnswerNXDomain}); err != nil {
		t.Fatal(err)
	}
	want := `{"ns":"default","name":"web","dns_ttl":9,"empty_answer":"nxdomain","lb_policy":"p2c"}`
	if v, _ := f.value(ServiceKey("default", "web")); v != want {
		t.Fatalf("got %s", v)
	}
	s, ok, err := r.GetService(t.Context(), "default", "web")
	if err != nil || !ok || s.DNSTTL != 9 {
		t.Fatalf("got %+v %v %v", s, ok, err)
	}
	if _, ok, err := r.GetService(t.Context(), "default", "absent"); ok || err != nil {
		t.Fatalf("got %v %v", ok, err)
	}
	if err := r.PutService(t.Context(), Service{NS: "default", Name: "web", EmptyAnswer: "maybe"}); !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}
