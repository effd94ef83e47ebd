package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/cmd/muster/bench/h2load"
	"github.com/musterhq/muster/cmd/muster/bench/histogram"
)

const watchMethod = "/etcdserverpb.Watch/Watch"

// watches are the options of watch.
type watches struct {
	puts
	watchers, keys int
	window         int
}

func watchCommand() *cobra.Command {
	var o options
	var w watches
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Fan out: put keys that many watch, and count deliveries",
		Long: `Fan out: put keys that many watch, and count deliveries.

An operation is one event delivered to one watcher; its latency counts from before the put.
Watchers of a connection share a stream. A put waits until all but --window of those before
it have been delivered to everybody.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.resolve(cmd.Flags()); err != nil {
				return err
			}
			if err := w.resolve(&o); err != nil {
				return err
			}
			return w.run(cmd, &o)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "the servers; connections take turns")
	// As etcd's own benchmark spreads them: ten streams of a hundred watchers.
	f.IntVar(&o.conns, "conns", 10, "connections of watchers")
	o.addRunFlags(f, 1000, "puts")
	f.IntVar(&w.watchers, "watchers", 1000, "watchers over all connections")
	f.IntVar(&w.keys, "watch-keys", 1, "keys that are watched; each watcher watches one, and each put writes one")
	f.IntVar(&w.window, "window", 16, "puts that may not be delivered yet")
	f.Float64Var(&o.rate, "rate", 0, "puts a second at most (0: as the window allows)")
	f.IntVar(&w.size, "key-size", 8, "bytes of a key")
	f.IntVar(&w.valueSize, "val-size", 256, "bytes of a value")
	return cmd
}

func (w *watches) resolve(o *options) error {
	if w.keys < 1 || w.watchers < w.keys || w.watchers%w.keys != 0 {
		return usagef("--watchers %d, --watch-keys %d: each key needs equally many watchers", w.watchers, w.keys)
	}
	if o.conns < 1 || w.window < 1 {
		return usagef("--conns %d, --window %d: use 1 or more", o.conns, w.window)
	}
	if w.valueSize < stampSize {
		return usagef("--val-size %d: use %d or more, the time of the put is in there", w.valueSize, stampSize)
	}
	o.conns = min(o.conns, w.watchers)
	w.keyspace.keys = w.keys
	return w.puts.validate()
}

// stampSize is how much of a value the time of its put takes.
const stampSize = 8

// fanout is what the watchers' connections share with the one that puts.
type fanout struct {
	base      time.Time
	created   atomic.Int64
	delivered atomic.Int64
	wanted    atomic.Int64  // of delivered: when to wake
	woken     chan struct{} // holds one
	bytes     []uint64      // by connection
	latency   []*histogram.Histogram
}

func (f *fanout) wake() {
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

// wait waits until n of a counter, or until silence says that no more are coming.
func (f *fanout) wait(ctx context.Context, counter *atomic.Int64, n int64, broken <-chan error) error {
	const silence = 10 * time.Second
	f.wanted.Store(n)
	t := time.NewTimer(silence)
	defer t.Stop()
	for {
		before := counter.Load()
		if before >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			if err == nil {
				err = ctx.Err()
			}
			return err
		case <-f.woken:
		case <-t.C:
			if counter.Load() == before {
				return fmt.Errorf("nothing came for %v: %d of %d", silence, before, n)
			}
			t.Reset(silence)
		}
	}
}

// run opens the watchers, puts, and waits for the deliveries.
func (w *watches) run(cmd *cobra.Command, o *options) error {
	ctx, stop := interruptible(cmd)
	defer stop()
	f := &fanout{base: time.Now(), woken: make(chan struct{}, 1), bytes: make([]uint64, o.conns)}
	for range o.conns {
		f.latency = append(f.latency, &histogram.Histogram{})
	}
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	type ended struct {
		report h2load.Report
		err    error
	}
	end, broken := make(chan ended, 1), make(chan error, 1)
	go func() {
		r, err := h2load.Run(watching, w.watching(o, f))
		broken <- err
		end <- ended{r, err}
	}()
	m, err := newMeter(o)
	if err != nil {
		unwatch()
		<-end
		return err
	}
	p := newProgress(cmd.ErrOrStderr(), "watch", o)
	err = f.wait(ctx, &f.created, int64(w.watchers), broken)
	if err != nil {
		err = fmt.Errorf("open watchers: %w", err)
	}
	var elapsed time.Duration
	if err == nil {
		m.begin()
		began := time.Now()
		err = w.put(ctx, o, f, broken, p)
		elapsed = time.Since(began)
		m.end()
	}
	p.clear()
	unwatch()
	e := <-end
	if err = errors.Join(err, e.err); ctx.Err() != nil {
		err = nil // Ctrl-C
	}
	if f.delivered.Load() == 0 && err != nil {
		return err
	}
	r := &h2load.Report{Done: uint64(f.delivered.Load()), Errors: e.report.Errors, Bytes: e.report.Bytes, Elapsed: elapsed}
	for _, h := range f.latency {
		r.Latency.Merge(h)
	}
	return errors.Join(err, o.print(ctx, cmd, m.result("watch", r)))
}

// put puts one key after the other, within the window, and waits for all deliveries.
func (w *watches) put(ctx context.Context, o *options, f *fanout, broken <-chan error, p *progress) error {
	c, err := h2load.Dial(ctx, o.addrs[0])
	if err != nil {
		return err
	}
	defer c.Close()
	message, keyAt := putRequest(w.size, randomValue(w.valueSize, o.seed))
	each := int64(w.watchers / w.keys)
	start := time.Now()
	n := 0
	for ; (o.total <= 0 || n < o.total) && (o.duration <= 0 || time.Since(start) < o.duration); n++ {
		if n >= w.window {
			if err := f.wait(ctx, &f.delivered, int64(n-w.window+1)*each, broken); err != nil {
				return err
			}
		}
		if o.rate > 0 {
			due := time.NewTimer(time.Duration(float64(n)/o.rate*float64(time.Second)) - time.Since(start))
			select {
			case <-ctx.Done():
				due.Stop()
				return ctx.Err()
			case <-due.C:
			}
		}
		w.set(message[keyAt:keyAt+w.size], n%w.keys)
		binary.BigEndian.PutUint64(message[len(message)-w.valueSize:], uint64(time.Since(f.base)))
		if _, err := c.Call(ctx, putMethod, message); err != nil {
			return err
		}
		if n%64 == 0 {
			p.show(int64(n))
		}
	}
	return f.wait(ctx, &f.delivered, int64(n)*each, broken)
}

// watching is the load that the watchers are: a stream a connection.
func (w *watches) watching(o *options, f *fanout) h2load.Config {
	count := func(conn int) int {
		n := w.watchers / o.conns
		if conn < w.watchers%o.conns {
			n++
		}
		return n
	}
	return h2load.Config{
		Addrs: o.addrs, Conns: o.conns, Clients: o.conns, Method: watchMethod, Push: true, Opening: count,
		Next: func(conn int) func(int, []byte) []byte {
			watcher := conn*(w.watchers/o.conns) + min(conn, w.watchers%o.conns)
			key := make([]byte, w.size)
			return func(_ int, dst []byte) []byte {
				w.set(key, watcher%w.keys)
				watcher++
				b, err := proto.MarshalOptions{}.MarshalAppend(dst, &pb.WatchRequest{
					RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: key}},
				})
				if err != nil {
					panic(err) // bytes can't fail to encode
				}
				return b
			}
		},
		Receive: func(conn int) func(int, []byte, time.Duration) error {
			latency := f.latency[conn]
			var at, now time.Duration
			return func(_ int, msg []byte, batch time.Duration) error {
				if batch != at { // one look at the clock for all that came together
					at, now = batch, time.Since(f.base)
				}
				return f.receive(msg, latency, now)
			}
		},
	}
}

// receive reads a WatchResponse.
func (f *fanout) receive(msg []byte, latency *histogram.Histogram, now time.Duration) error {
	const fieldCreated, fieldCanceled, fieldEvents = 3, 4, 11
	var events int64
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
			return protowire.ParseError(n)
		}
		switch value := msg[:n]; {
		case num == fieldCreated && value[0] != 0:
			if f.created.Add(1) >= f.wanted.Load() {
				f.wake()
			}
		case num == fieldCanceled && value[0] != 0:
			return errors.New("the server canceled a watch")
		case num == fieldEvents && typ == protowire.BytesType:
			events++
			event, _ := protowire.ConsumeBytes(value)
			if sent, ok := stamp(event); ok {
				latency.Add(now - sent)
			}
		}
		msg = msg[n:]
	}
	if events > 0 && f.delivered.Add(events) >= f.wanted.Load() {
		f.wake()
	}
	return nil
}

// stamp finds when an event's put was sent.
func stamp(event []byte) (time.Duration, bool) {
	const fieldKV, fieldValue = 2, 5
	kv, ok := bytesField(event, fieldKV)
	if !ok {
		return 0, false
	}
	value, ok := bytesField(kv, fieldValue)
	if !ok || len(value) < stampSize {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint64(value)), true
}

// bytesField finds a field of a message.
func bytesField(msg []byte, want protowire.Number) ([]byte, bool) {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return nil, false
		}
		msg = msg[n:]
		if num == want && typ == protowire.BytesType {
			b, n := protowire.ConsumeBytes(msg)
			return b, n >= 0
		}
		if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
			return nil, false
		}
		msg = msg[n:]
	}
	return nil, false
}
