package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
)

// feed is the owner goroutine's state.
type feed struct {
	c *Catalog
	// orphans are health records whose instance isn't there: in a listing health sorts before instances, and a watch
	// may show them in either order.
	orphans map[discovery.Ref]orphan
	logged  map[string]bool
}

type orphan struct {
	health discovery.Health
	rev    int64
}

// run lists and watches until ctx ends.
func (c *Catalog) run(ctx context.Context) {
	f := &feed{c: c, logged: map[string]bool{}}
	failures := 0
	for ctx.Err() == nil {
		start := time.Now()
		err := f.list(ctx)
		if err == nil {
			c.contact(start, func(feedOK, _ *bool) { *feedOK = true })
			started := time.Now()
			err = f.follow(ctx)
			if time.Since(started) > c.cfg.MaxBackoff {
				failures = 0
			}
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case errors.Is(err, errResync):
			continue // asked for by the pinger, at its pace
		case isCompacted(err):
			c.logger.Info("registry history was compacted; listing anew", "error", err)
		default:
			c.contact(time.Time{}, func(feedOK, _ *bool) { *feedOK = false })
			c.logger.Warn("registry feed broke; serving the last snapshot", "error", err)
		}
		sleep(ctx, c.backoff(failures))
		failures++
	}
}

// errResync ends follow for a new listing.
var errResync = errors.New("resync")

// list builds a snapshot from a full listing and publishes it.
func (f *feed) list(ctx context.Context) error {
	b := newBuilder(nil)
	f.orphans = map[discovery.Ref]orphan{}
	rev, err := f.c.source.List(ctx, func(kv sdk.KV) { f.apply(b, sdk.Event{Type: sdk.Put, KV: kv}) })
	if err != nil {
		return err
	}
	old := f.c.snap.Load()
	ch := Change{Old: old, Resync: true}
	ch.Services = b.reuse(old, rev)
	ch.New = b.publish(rev, time.Now())
	f.c.resyncs.Add(1)
	f.c.publish(ch)
	return nil
}

// follow applies the watch from the last snapshot on.
func (f *feed) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	type item struct {
		batch sdk.WatchBatch
		err   error
	}
	items := make(chan item, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(items)
		for b, err := range f.c.source.Watch(ctx, f.c.snap.Load().rev+1) {
			select {
			case items <- item{b, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		<-done
	}()
	for {
		var it item
		ok := true
		select {
		case it, ok = <-items:
		case <-f.c.resync:
			return errResync
		}
		old := f.c.snap.Load()
		b := newBuilder(old)
		rev, events := old.rev, 0
		// Everything that has arrived is published together: a burst costs one copy of each touched service.
		for n := 1; ok && it.err == nil; n++ {
			if it.batch.Progress {
				rev = max(rev, it.batch.Header.Revision)
			}
			for _, ev := range it.batch.Events {
				// The batch's header may be ahead of its last event while the member catches up.
				rev = max(rev, ev.KV.ModRevision)
				if f.apply(b, ev) {
					events++
				}
			}
			if n == maxCoalesced {
				break
			}
			select {
			case it, ok = <-items:
				continue
			default:
			}
			break
		}
		if ok || rev > old.rev {
			f.c.contact(time.Now(), nil)
		}
		if rev > old.rev {
			f.c.events.Add(uint64(events)) //nolint:gosec // a count
			ch := Change{Old: old, Services: b.names()}
			ch.New = b.publish(rev, old.syncedAt)
			f.c.publish(ch)
		}
		if it.err != nil {
			return it.err
		}
		if !ok {
			return errWatchEnded
		}
	}
}

// maxCoalesced bounds the batches published together, so that a flood can't hold back the first change.
const maxCoalesced = 256

var errWatchEnded = errors.New("watch ended without an error")

// publish swaps the snapshot in and tells of it.
func (c *Catalog) publish(ch Change) {
	c.snap.Store(ch.New)
	c.publishes.Add(1)
	select {
	case <-c.synced:
	default:
		close(c.synced)
	}
	if c.cfg.OnChange != nil && (ch.Resync || len(ch.Services) > 0) {
		c.cfg.OnChange(ch)
	}
	select {
	case c.updates <- struct{}{}:
	default:
	}
}

// apply puts one change into the builder and reports whether the key is one the catalog reads.
func (f *feed) apply(b *builder, ev sdk.Event) bool {
	kind, ref, err := discovery.ParseKey(ev.KV.Key)
	if kind == discovery.KindOther {
		return false
	}
	if err != nil {
		if ev.Type != sdk.Delete {
			f.decodeError(ev.KV.Key, err)
		}
		return true
	}
	rev := ev.KV.ModRevision
	switch kind {
	case discovery.KindService:
		f.policy(b, ref, ev, rev)
	case discovery.KindInstance:
		f.instance(b, ref, ev, rev)
	case discovery.KindHealth:
		f.health(b, ref, ev, rev)
	}
	return true
}

func (f *feed) policy(b *builder, ref discovery.Ref, ev sdk.Event, rev int64) {
	if ev.Type != sdk.Delete {
		p, err := discovery.DecodeService(ref.NS, ref.Svc, ev.KV.Value)
		if err == nil {
			b.putPolicy(p, rev)
			return
		}
		f.decodeError(ev.KV.Key, err)
	}
	b.deletePolicy(ref.NS, ref.Svc, rev)
}

func (f *feed) instance(b *builder, ref discovery.Ref, ev sdk.Event, rev int64) {
	if ev.Type != sdk.Delete {
		in, err := discovery.DecodeInstance(ref, ev.KV.Value)
		if err == nil {
			b.putInstance(ref, in, rev)
			if o, ok := f.orphans[ref]; ok {
				delete(f.orphans, ref)
				b.putHealth(ref, &o.health, max(rev, o.rev))
			}
			return
		}
		f.decodeError(ev.KV.Key, err)
	}
	if h := b.deleteInstance(ref, rev); h != nil {
		f.orphans[ref] = orphan{*h, rev}
	}
}

func (f *feed) health(b *builder, ref discovery.Ref, ev sdk.Event, rev int64) {
	if ev.Type == sdk.Delete {
		delete(f.orphans, ref)
		b.putHealth(ref, nil, rev)
		return
	}
	h, err := discovery.DecodeHealth(ref, ev.KV.Value)
	if err != nil {
		// Left out, but not taken for well: the instance has a health record, and it can't be read.
		f.decodeError(ev.KV.Key, err)
		h = discovery.Health{Status: discovery.StatusUnknown}
	}
	if !b.putHealth(ref, &h, rev) {
		f.orphans[ref] = orphan{h, rev}
	}
}
