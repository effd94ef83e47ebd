package registrar

import (
	"context"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
)

// Store is what a Registrar needs of the store: one lease, and registrations under it. Calls end with ctx. A lease that
// is gone gives sdk.ErrLeaseNotFound.
type Store interface {
	Grant(ctx context.Context, ttl time.Duration) (sdk.Lease, error)
	KeepAlive(ctx context.Context, lease int64) (sdk.Lease, error)
	// Keys lists the keys that the lease holds.
	Keys(ctx context.Context, lease int64) ([]string, error)
	Revoke(ctx context.Context, lease int64) error
	// The rest is as discovery.Registry has it.
	Register(ctx context.Context, lease int64, regs ...discovery.Registration) error
	SetHealth(ctx context.Context, lease int64, health map[discovery.Ref]discovery.Health) error
	Deregister(ctx context.Context, lease int64, refs ...discovery.Ref) error
	Fetch(ctx context.Context, refs ...discovery.Ref) (map[discovery.Ref]discovery.Record, error)
}

// NewStore makes a Store of a client. The client is not closed by the registrar.
func NewStore(c *sdk.Client) Store {
	return clientStore{discovery.NewRegistry(discovery.RegistryConfig{Store: c}), c}
}

type clientStore struct {
	*discovery.Registry
	client *sdk.Client
}

func (s clientStore) Grant(ctx context.Context, ttl time.Duration) (sdk.Lease, error) {
	return s.client.Grant(ctx, ttl)
}

func (s clientStore) KeepAlive(ctx context.Context, lease int64) (sdk.Lease, error) {
	return s.client.KeepAliveOnce(ctx, lease)
}

func (s clientStore) Keys(ctx context.Context, lease int64) ([]string, error) {
	info, err := s.client.TimeToLive(ctx, lease, true)
	return info.Keys, err
}

func (s clientStore) Revoke(ctx context.Context, lease int64) error {
	return s.client.Revoke(ctx, lease)
}
