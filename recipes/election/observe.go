package election

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/musterhq/muster/sdk"
)

// Leader is who leads, at Revision of the store.
type Leader struct {
	Key      string
	Value    []byte
	Lease    int64
	Token    Token
	Revision int64
}

// Event is a state of the election: led by Leader, or by nobody if it is nil.
type Event struct {
	Leader   *Leader
	Revision int64
}

// Observer sees an election without standing in it.
type Observer struct {
	client *sdk.Client
	prefix string
	epoch  int64
}

// NewObserver names an election to look at.
func NewObserver(c *sdk.Client, name string, opts ...Option) *Observer {
	return &Observer{client: c, prefix: prefix(name), epoch: configure(opts).epoch}
}

// Leader asks the quorum who leads; false if nobody does.
func (o *Observer) Leader(ctx context.Context) (Leader, bool, error) {
	ev, err := o.state(ctx)
	if err != nil || ev.Leader == nil {
		return Leader{}, false, err
	}
	return *ev.Leader, true, nil
}

func (o *Observer) state(ctx context.Context) (Event, error) {
	r, err := o.client.Get(ctx, o.prefix, sdk.WithPrefix(), sdk.WithSort(sdk.SortByCreate, sdk.Ascending), sdk.WithLimit(1))
	if err != nil {
		return Event{}, fmt.Errorf("election: %s: %w", o.prefix, err)
	}
	ev := Event{Revision: r.Header.Revision}
	if kv, ok := r.First(); ok {
		ev.Leader = o.leader(kv, r.Header.Revision)
	}
	return ev, nil
}

func (o *Observer) leader(kv sdk.KV, rev int64) *Leader {
	return &Leader{
		Key: kv.Key, Value: kv.Value, Lease: kv.Lease, Token: Token{Epoch: o.epoch, Revision: kv.CreateRevision}, Revision: rev,
	}
}

// Observe yields the present state, then each change: another leader, another value of the same one, or nobody. Leaders
// that came and went while nobody listened may be left out; what is yielded never goes back. It ends with one error.
func (o *Observer) Observe(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var last Event
		for first := true; ; first = false {
			ev, err := o.state(ctx)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if (first || !same(last, ev)) && !yield(ev, nil) {
				return
			}
			last = ev
			if ev.Leader == nil {
				err = o.untilCandidate(ctx, ev.Revision+1)
			} else {
				var left bool
				if last.Leader, left, err = o.follow(ctx, ev.Leader, yield); left {
					return
				}
			}
			if err != nil && !errors.Is(err, sdk.ErrCompacted) {
				yield(Event{}, fmt.Errorf("election: %s: %w", o.prefix, err))
				return
			}
		}
	}
}

// same tells whether two states would look the same to a consumer.
func same(a, b Event) bool {
	if a.Leader == nil || b.Leader == nil {
		return a.Leader == b.Leader
	}
	return a.Leader.Token == b.Leader.Token && string(a.Leader.Value) == string(b.Leader.Value)
}

// untilCandidate returns once somebody stands.
func (o *Observer) untilCandidate(ctx context.Context, from int64) error {
	for b, err := range o.client.Watch(ctx, o.prefix, sdk.WithPrefix(), sdk.WithRev(from), sdk.WithFilterDelete()) {
		if err != nil {
			return err
		}
		if len(b.Events) > 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

// follow yields the leader's proclamations until its key is deleted, and returns the last.
func (o *Observer) follow(ctx context.Context, l *Leader, yield func(Event, error) bool) (last *Leader, left bool, err error) {
	for b, err := range o.client.Watch(ctx, l.Key, sdk.WithRev(l.Revision+1)) {
		if err != nil {
			return l, false, err
		}
		for _, e := range b.Events {
			if e.Type == sdk.Delete || e.KV.CreateRevision != l.Token.Revision {
				return l, false, nil
			}
			l = o.leader(e.KV, e.KV.ModRevision)
			if !yield(Event{Leader: l, Revision: l.Revision}, nil) {
				return l, true, nil
			}
		}
	}
	return l, false, context.Cause(ctx)
}
