package chaos

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/sdk"
)

// follower is a watcher of everything from the first revision on.
type follower struct {
	name  string
	whole bool // keeps the events, not just their sum
	gone  func(key string)

	mu         sync.Mutex // guards the rest while the load runs
	last       int64      // revision
	sums       []uint64   // sums[i] is of all events up to revision i+2
	events     []event
	ends       map[string]int // streams that ended, by reason
	complaints []string
}

// follow starts a watcher of each member and of all of them, with both libraries.
func (l *load) follow(ctx context.Context) {
	gone := func(key string) {
		if strings.HasPrefix(key, leaseKeys) {
			l.leases.gone(key)
		}
	}
	add := func(name string) *follower {
		f := &follower{name: name, whole: len(l.followers) == 0, gone: gone, last: 1}
		l.followers = append(l.followers, f)
		return f
	}
	for _, m := range l.members {
		f, cl := add("of "+m.name), l.etcdClient(m.client)
		l.watching.Go(func() { f.followEtcd(ctx, cl) })
	}
	f, cl := add("of all"), l.etcdClient(l.endpoints()...)
	l.watching.Go(func() {
		f.followEtcd(ctx, cl, clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithFragment())
	})
	own := add("of the SDK")
	sdkClient := l.sdkClient(callTime, l.endpoints()...)
	l.watching.Go(func() { own.followSDK(ctx, sdkClient) })
}

func (f *follower) at() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (f *follower) followEtcd(ctx context.Context, cl *clientv3.Client, opts ...clientv3.OpOption) {
	for ctx.Err() == nil {
		// From key 0 on: every revision is of some key, so none may be missing.
		opts := append([]clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithRev(f.at() + 1)}, opts...)
		for r := range cl.Watch(ctx, "\x00", opts...) {
			if r.CompactRevision != 0 {
				f.complain("it was compacted at %d", r.CompactRevision)
				return
			}
			if err := r.Err(); err != nil {
				f.end(err)
				break
			}
			events := make([]event, len(r.Events))
			for i, e := range r.Events {
				events[i] = event{
					rev: e.Kv.ModRevision, key: string(e.Kv.Key), value: digest(e.Kv.Value), deleted: e.Type == clientv3.EventTypeDelete,
					create: e.Kv.CreateRevision, version: e.Kv.Version,
				}
				f.checkPrev(e.PrevKv, events[i])
			}
			f.take(r.Header.Revision, events)
		}
	}
}

// checkPrev: a previous value is of the same key and older.
func (f *follower) checkPrev(prev *mvccpb.KeyValue, e event) {
	if prev == nil {
		return
	}
	if string(prev.Key) != e.key || prev.ModRevision >= e.rev || !e.deleted && (prev.CreateRevision != e.create || prev.Version != e.version-1) {
		f.complain("%v came with %v as previous", e, prev)
	}
}

func (f *follower) followSDK(ctx context.Context, cl *sdk.Client) {
	for ctx.Err() == nil {
		for b, err := range cl.Watch(ctx, "", sdk.WithPrefix(), sdk.WithRev(f.at()+1)) {
			if err != nil {
				if ctx.Err() == nil {
					f.complain("its watch ended: %v", err)
				}
				return
			}
			events := make([]event, len(b.Events))
			for i, e := range b.Events {
				events[i] = event{
					rev: e.KV.ModRevision, key: e.KV.Key, value: digest(e.KV.Value), deleted: e.Type == sdk.Delete,
					create: e.KV.CreateRevision, version: e.KV.Version,
				}
			}
			f.take(b.Header.Revision, events)
		}
	}
}

// end notes why a watch ended that its library could have resumed.
func (f *follower) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ends == nil {
		f.ends = map[string]int{}
	}
	f.ends[err.Error()]++
}

func (f *follower) complain(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.complaints = append(f.complaints, fmt.Sprintf(format, args...))
}

// take checks that responses hold whole revisions, each once and in order.
func (f *follower) take(header int64, events []event) {
	for _, e := range events {
		if e.deleted {
			f.gone(e.key)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.last
	for _, e := range events {
		switch {
		case e.rev == f.last+1:
			f.last++
			before := uint64(0)
			if n := len(f.sums); n > 0 {
				before = f.sums[n-1]
			}
			f.sums = append(f.sums, before)
		case e.rev == f.last && f.last > before:
		default:
			f.complaints = append(f.complaints, fmt.Sprintf("told of %v when %d was due", e, f.last+1))
			return
		}
		f.sums[len(f.sums)-1] = sum(f.sums[len(f.sums)-1], e)
		if f.whole {
			f.events = append(f.events, e)
		}
	}
	if len(events) == 0 && header < f.last {
		f.complaints = append(f.complaints, fmt.Sprintf("told that it is at %d when it was at %d", header, f.last))
	}
}

// checkFollowers compares what the watchers were told and returns it.
func checkFollowers(v *verdict, followers []*follower) *history {
	first := followers[0]
	h, wrong := newHistory(first.events)
	v.checked("histories that make sense", len(wrong) == 0, "%v", wrong[:min(len(wrong), 5)])
	for _, f := range followers {
		v.checked("watchers told of each revision once, in order", len(f.complaints) == 0, "%s: %v", f.name, f.complaints)
		for i := range min(len(f.sums), len(first.sums)) {
			v.checked("revisions watched", f.sums[i] == first.sums[i], "%d differs for the watchers %s and %s: %v", i+2, f.name, first.name, h.of(int64(i)+2))
			if f.sums[i] != first.sums[i] {
				break
			}
		}
	}
	return h
}
