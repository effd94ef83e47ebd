package sdk

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// authenticator keeps the token of Config.Username. A cluster with authentication off gives none, which is kept as the
// empty token until a member asks for a name.
type authenticator struct {
	slot chan struct{} // held by the one goroutine that fetches a token
	mu   struct {
		sync.Mutex
		known bool
		token string
	}
}

func (a *authenticator) kept() (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.token, a.mu.known
}

// drop forgets the token unless another took its place already.
func (a *authenticator) drop(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.token == token {
		a.mu.known, a.mu.token = false, ""
	}
}

// forget drops whatever token there is.
func (a *authenticator) forget() {
	t, _ := a.kept()
	a.drop(t)
}

// token fetches one through the fail-over connection if there is none.
func (a *authenticator) token(ctx context.Context, f *failover) (string, error) {
	return a.fetch(ctx, f, f.cfg)
}

// tokenFrom fetches one from the member itself, for calls that must not touch another.
func (a *authenticator) tokenFrom(ctx context.Context, m *member, cfg Config) (string, error) {
	return a.fetch(ctx, m.cc, cfg)
}

func (a *authenticator) fetch(ctx context.Context, cc grpc.ClientConnInterface, cfg Config) (string, error) {
	if cfg.Username == "" {
		return "", nil
	}
	if t, ok := a.kept(); ok {
		return t, nil
	}
	select {
	case a.slot <- struct{}{}:
		defer func() { <-a.slot }()
	case <-ctx.Done():
		return "", newError(ctx, pb.Auth_Authenticate_FullMethodName, "", ctx.Err())
	}
	if t, ok := a.kept(); ok {
		return t, nil
	}
	resp, err := pb.NewAuthClient(cc).Authenticate(ctx, &pb.AuthenticateRequest{Name: cfg.Username, Password: cfg.Password})
	if err != nil && status.Convert(err).Message() != rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthNotEnabled) {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.known, a.mu.token = true, resp.GetToken()
	return a.mu.token, nil
}
