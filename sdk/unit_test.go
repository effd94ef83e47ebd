package sdk

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEndpointsAreTakenApart(t *testing.T) {
	for s, want := range map[string]endpoint{
		"h:1":             {network: "tcp", addr: "h:1"},
		"http://h:1/":     {network: "tcp", addr: "h:1"},
		"https://[::1]:1": {network: "tcp", addr: "[::1]:1", tls: true},
		"unix:///run/m":   {network: "unix", addr: "/run/m"},
		"unixs://m.sock":  {network: "unix", addr: "m.sock", tls: true},
	} {
		want.name = s
		if got, err := parseEndpoint(s, false); err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", s, got, err, want)
		}
	}
	if got, err := parseEndpoint("h:1", true); err != nil || !got.tls {
		t.Errorf("no scheme with a TLS config: got %+v, %v; want TLS", got, err)
	}
	if got, err := parseEndpoint("http://h:1", true); err != nil || got.tls {
		t.Errorf("http with a TLS config: got %+v, %v; want plain text", got, err)
	}
	for _, s := range []string{"", "h", "h:", "ftp://h:1", "unix://", "http://h"} {
		if _, err := parseEndpoint(s, false); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v; want ErrInvalid", s, err)
		}
	}
}

func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"h:1", "http://h:1/", "https://[::1]:1", "unix:///run/m", "unixs://m.sock", "", "://", "http://", "[::1%25e]:1", "a:b:c", "h:1/x"} {
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, hasTLS bool) {
		e, err := parseEndpoint(s, hasTLS)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: got %v; want ErrInvalid", s, err)
			}
			return
		}
		switch _, port, err := net.SplitHostPort(e.addr); {
		case e.name != s || (e.tlsConfig(nil) != nil) != e.tls:
			t.Fatalf("%q: got %+v", s, e)
		case e.network == "tcp" && (err != nil || port == ""):
			t.Fatalf("%q: %q cannot be dialled", s, e.addr)
		case e.network != "tcp" && (e.network != "unix" || e.addr == ""):
			t.Fatalf("%q: got %+v", s, e)
		}
	})
}

func TestConfigNamesTheFieldThatIsWrong(t *testing.T) {
	ok := []string{"h:1"}
	for want, cfg := range map[error]Config{
		ErrNoEndpoints: {},
		ErrInvalid:     {Endpoints: ok, Password: "p"},
	} {
		if err := cfg.Validate(); !errors.Is(err, want) {
			t.Errorf("%+v: got %v; want %v", cfg, err, want)
		}
	}
	for _, cfg := range []Config{{Endpoints: ok, Timeout: -1}, {Endpoints: ok, DialTimeout: -1}, {Endpoints: ok, MaxMsgSize: -1}} {
		if err := cfg.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: got %v; want ErrInvalid", cfg, err)
		}
	}
	if err := (Config{Endpoints: ok, TLS: &tls.Config{}}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestOptionThatDoesNotApplyIsRefusedByName(t *testing.T) {
	c := openFake(t, Config{}, answering(1))
	_, err := c.Put(t.Context(), "k", nil, WithLimit(1))
	if !errors.Is(err, ErrInvalid) || err.Error() != "sdk: invalid argument: WithLimit doesn't apply to put; remove it" {
		t.Errorf("got %v", err)
	}
	for name, err := range map[string]error{
		"empty key":    func() error { _, err := c.Get(t.Context(), ""); return err }(),
		"zero option":  func() error { _, err := c.Get(t.Context(), "k", Option{}); return err }(),
		"zero op":      func() error { _, err := c.Txn(t.Context(), Txn{Then: []Op{{}}}); return err }(),
		"zero compare": func() error { _, err := c.Txn(t.Context(), Txn{If: []Cmp{{}}}); return err }(),
		"odd compare":  func() error { _, err := c.Txn(t.Context(), Txn{If: []Cmp{CmpMod("k", "~", 1)}}); return err }(),
		"option in op": func() error { _, err := c.Txn(t.Context(), Txn{Then: []Op{OpGet("k", WithLease(1))}}); return err }(),
		"nested bad op": func() error {
			_, err := c.Txn(t.Context(), Txn{Else: []Op{OpTxn(Txn{Then: []Op{OpPut("", nil)}})}})
			return err
		}(),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v; want ErrInvalid", name, err)
		}
	}
}

func TestPrefixEndIsTheFirstKeyAfter(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "\xff\xff": "\x00", "": "\x00", "az": "a{"} {
		if got := string(prefixEnd([]byte(prefix))); got != want {
			t.Errorf("prefix %q: got %q; want %q", prefix, got, want)
		}
	}
}

func TestJudgeRepeatsOnlyWhatIsSafe(t *testing.T) {
	plain := func(c codes.Code, msg string) error { return status.Error(c, msg) }
	for _, tc := range []struct {
		err        error
		sent, read bool
		want       verdict
	}{
		{plain(codes.Unavailable, "connection error"), false, false, elsewhere},
		{plain(codes.DeadlineExceeded, "waiting for a connection"), false, false, elsewhere},
		{plain(codes.Unavailable, "connection reset"), true, false, unknown},
		{plain(codes.Unavailable, "connection reset"), true, true, elsewhere},
		{plain(codes.DeadlineExceeded, "late"), true, false, unknown},
		{plain(codes.Canceled, "caller left"), true, false, unknown},
		{plain(codes.Internal, "stream reset"), true, false, unknown},
		{plain(codes.Internal, "stream reset"), true, true, final},
		{plain(codes.ResourceExhausted, "grpc: received message larger than max"), true, false, unknown},
		{plain(codes.ResourceExhausted, "grpc: received message larger than max"), true, true, final},
		{rpctypes.ErrGRPCRequestTooManyRequests, true, false, final},
		{rpctypes.ErrGRPCNoSpace, true, false, final},
		{rpctypes.ErrGRPCNoLeader, true, false, elsewhere},
		{rpctypes.ErrGRPCNotSupportedForLearner, true, false, elsewhere},
		{rpctypes.ErrGRPCUnhealthy, true, false, final}, // a change of the members that was not proposed
		{rpctypes.ErrGRPCLeaderChanged, true, false, unknown},
		{rpctypes.ErrGRPCTimeout, true, false, unknown},
		{rpctypes.ErrGRPCInvalidAuthToken, true, false, reauthenticate},
		{rpctypes.ErrGRPCAuthOldRevision, true, false, reauthenticate},
		{rpctypes.ErrGRPCAuthFailed, true, false, final},
		{rpctypes.ErrGRPCCompacted, true, true, final},
	} {
		if got := judge(tc.err, tc.sent, tc.read); got != tc.want {
			t.Errorf("judge(%v, sent %v, read %v) = %d; want %d", tc.err, tc.sent, tc.read, got, tc.want)
		}
	}
}

func TestOnlyTransactionsWithoutWritesAreReads(t *testing.T) {
	get, put := OpGet("k"), OpPut("k", nil)
	for _, tc := range []struct {
		txn  Txn
		want bool
	}{
		{Txn{}, true},
		{Txn{Then: []Op{get}, Else: []Op{get}}, true},
		{Txn{Then: []Op{get}, Else: []Op{put}}, false},
		{Txn{Then: []Op{OpTxn(Txn{Then: []Op{get}})}}, true},
		{Txn{Then: []Op{OpTxn(Txn{Else: []Op{OpDelete("k")}})}}, false},
	} {
		r, err := tc.txn.request()
		if err != nil {
			t.Fatal(err)
		}
		if got := isRead(pb.KV_Txn_FullMethodName, r); got != tc.want {
			t.Errorf("%v: read %v; want %v", r, got, tc.want)
		}
	}
}

func TestBackoffBeginsOnceEveryMemberWasTried(t *testing.T) {
	for _, tc := range []struct {
		attempt, members int
		jitter           float64
		want             time.Duration
	}{
		{0, 3, 1, 0},
		{1, 3, 1, 0},
		{2, 3, 1, 25 * time.Millisecond},
		{2, 3, 0, 12500 * time.Microsecond},
		{0, 1, 1, 25 * time.Millisecond},
		{5, 1, 1, 800 * time.Millisecond},
		{1000, 1, 1, time.Second},
	} {
		if got := backoffDelay(tc.attempt, tc.members, tc.jitter); got != tc.want {
			t.Errorf("attempt %d of %d members: %v; want %v", tc.attempt, tc.members, got, tc.want)
		}
	}
}
