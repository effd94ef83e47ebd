package catalog

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/sdk"
)

// The defaults of Config.
const (
	DefaultPingInterval = 5 * time.Second
	DefaultMinBackoff   = 100 * time.Millisecond
	DefaultMaxBackoff   = 10 * time.Second
)

// Config tells Open where the registry is. Client or Source is needed; everything else has a default.
type Config struct {
	// Client reads the store. It is not closed by the catalog.
	Client *sdk.Client
	// Source replaces Client: a test's script, or another way to the store.
	Source Source
	Logger *slog.Logger
	// OnChange is called by the feed's goroutine after each published snapshot, in order. It must not block, call
	// Close, or change anything it is given.
	OnChange func(Change)
	// PingInterval is how often the store is asked for a sign of life.
	PingInterval time.Duration
	// MinBackoff and MaxBackoff bound the jittered wait after a failed listing.
	MinBackoff, MaxBackoff time.Duration
}

// Change tells what a published snapshot changed.
type Change struct {
	// Old is nil for the first snapshot.
	Old, New *Snapshot
	// Services are the changed, added and removed ones, each once, in no particular order.
	Services []ServiceName
	// Resync tells that New comes from a full listing. Services is exact all the same.
	Resync bool
}

// Stats counts since Open.
type Stats struct {
	// Undecodable counts values that were left out because they couldn't be read.
	Undecodable uint64
	// Resyncs counts full listings published, the first one included.
	Resyncs uint64
	// Events counts watch events of keys the catalog reads, Publishes the snapshots made of them.
	Events, Publishes uint64
}

// Catalog follows the registry. See the package comment.
type Catalog struct {
	cfg     Config
	source  Source
	logger  *slog.Logger
	snap    atomic.Pointer[Snapshot]
	updates chan struct{}
	synced  chan struct{} // closed at the first snapshot

	cancel context.CancelFunc
	wg     sync.WaitGroup
	resync chan struct{} // the pinger's wish for a full listing

	undecodable, resyncs, events, publishes atomic.Uint64

	mu struct { // guards contact, which the feed and the pinger write and Staleness reads
		sync.Mutex
		feedOK, pingOK bool
		heard          time.Time // last time the store was heard while all was well
	}
}

// ErrNoSource is returned by Open without a Client or Source.
var ErrNoSource = errors.New("catalog: no store; set Config.Client")

// Open starts following. It doesn't wait for the store: Snapshot is nil until the first sync. ctx bounds nothing after
// Open has returned; Close ends the catalog.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Catalog{
		cfg: cfg, source: cfg.Source, logger: cfg.Logger,
		updates: make(chan struct{}, 1), synced: make(chan struct{}), resync: make(chan struct{}, 1),
	}
	if c.source == nil {
		if cfg.Client == nil {
			return nil, ErrNoSource
		}
		c.source = clientSource{cfg.Client}
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.cfg.PingInterval <= 0 {
		c.cfg.PingInterval = DefaultPingInterval
	}
	if c.cfg.MinBackoff <= 0 {
		c.cfg.MinBackoff = DefaultMinBackoff
	}
	if c.cfg.MaxBackoff < c.cfg.MinBackoff {
		c.cfg.MaxBackoff = max(DefaultMaxBackoff, c.cfg.MinBackoff)
	}
	c.mu.pingOK = true
	c.mu.heard = time.Now()
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.wg.Go(func() { c.run(ctx) })
	c.wg.Go(func() { c.ping(ctx) })
	return c, nil
}

// Close stops the catalog and waits for its goroutines. The last snapshot stays readable. It may be called again.
func (c *Catalog) Close() error {
	c.cancel()
	c.wg.Wait()
	return nil
}

// Snapshot returns the newest snapshot, nil until the first sync.
func (c *Catalog) Snapshot() *Snapshot { return c.snap.Load() }

// Updates receives a value after snapshots were published, one for all since the last receive. It is meant for one
// receiver and is never closed.
func (c *Catalog) Updates() <-chan struct{} { return c.updates }

// WaitSynced returns the first snapshot, or ctx's error.
func (c *Catalog) WaitSynced(ctx context.Context) (*Snapshot, error) {
	select {
	case <-c.synced:
		return c.snap.Load(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Staleness is 0 while the store is in reach, and otherwise how long ago it was last heard: at most so old is the
// snapshot's news. A loss is noticed within the ping interval and time-out.
func (c *Catalog) Staleness() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.feedOK && c.mu.pingOK {
		return 0
	}
	return max(time.Since(c.mu.heard), 1)
}

// Stats returns the counters.
func (c *Catalog) Stats() Stats {
	return Stats{
		Undecodable: c.undecodable.Load(), Resyncs: c.resyncs.Load(),
		Events: c.events.Load(), Publishes: c.publishes.Load(),
	}
}

// contact notes what was learned about the store, and when.
func (c *Catalog) contact(at time.Time, change func(feedOK, pingOK *bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if change != nil {
		change(&c.mu.feedOK, &c.mu.pingOK)
	}
	if c.mu.feedOK && c.mu.pingOK && at.After(c.mu.heard) {
		c.mu.heard = at
	}
}

// ping asks the store for a sign of life now and then. A watch alone doesn't tell silence from loss.
func (c *Catalog) ping(ctx context.Context) {
	tick := time.NewTicker(c.cfg.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		start, before := time.Now(), c.snap.Load()
		pctx, cancel := context.WithTimeout(ctx, c.cfg.PingInterval)
		rev, err := c.source.Revision(pctx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		c.contact(start, func(_, pingOK *bool) {
			if *pingOK && err != nil {
				c.logger.Warn("registry store is out of reach; serving the last snapshot", "error", err)
			} else if !*pingOK && err == nil {
				c.logger.Info("registry store is in reach again")
			}
			*pingOK = err == nil
		})
		if err == nil && before != nil && rev < before.rev {
			// A linearizable answer older than what had been seen before it was asked for: the store was restored to an earlier state,
			// and the watch would wait for revisions that are long in coming.
			c.logger.Warn("registry store went back in time; listing it anew", "had_revision", before.rev, "revision", rev)
			select {
			case c.resync <- struct{}{}:
			default:
			}
		}
	}
}

// backoff returns the wait before attempt number n (from 0): doubled each time, with full jitter in the upper half.
func (c *Catalog) backoff(n int) time.Duration {
	d := c.cfg.MaxBackoff
	if n < 20 {
		d = min(d, c.cfg.MinBackoff<<n)
	}
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func isCompacted(err error) bool { return errors.Is(err, sdk.ErrCompacted) }

// decodeError counts and, once for each key, logs a value left out.
func (f *feed) decodeError(key string, err error) {
	f.c.undecodable.Add(1)
	if len(f.logged) >= maxLogged || f.logged[key] {
		return
	}
	f.logged[key] = true
	f.c.logger.Warn("registry value left out", "key", key, "error", err)
}

// maxLogged bounds the memory of what was logged.
const maxLogged = 1024
