package watch

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs the scenarios in testdata. A line of operations is one
// revision: "put k v", "del k [end]", separated by ";"; a value "*n" is n bytes.
//
//	commit            each line a revision, all in one Notify
//	hold              each line a revision, published but not notified
//	reset             each line a revision, told by Reset alone
//	before-view / after-view
//	                  as commit, but run when a stream next asks for a view:
//	                  before it gets it, or between getting and reading it
//	notify            what is held
//	compact rev=N
//	hub [budget=N] [max=N]   start over
//	watch key=k [end=e|end=* (from key)] [rev=] [id=] [prev] [progress] [fragment] [noput] [nodelete] [stream=]
//	cancel id=N, progress, tick, close, refuse [stream=]
//	poll [n=N] [stream=]     responses that can be had, at most N
//	stats
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		sc := &script{t: t}
		sc.restart(Config{})
		datadriven.RunTest(t, path, sc.run)
	})
}

type script struct {
	t       *testing.T
	store   *store
	streams map[string]*Stream
}

func (sc *script) restart(cfg Config) {
	sc.store = newStore(sc.t, cfg)
	sc.streams = map[string]*Stream{}
}

func (sc *script) stream(d *datadriven.TestData) *Stream {
	name := "s"
	d.MaybeScanArgs(sc.t, "stream", &name)
	if sc.streams[name] == nil {
		sc.streams[name] = sc.store.hub.NewStream()
	}
	return sc.streams[name]
}

func (sc *script) run(t *testing.T, d *datadriven.TestData) string {
	sc.t = t
	switch d.Cmd {
	case "hub":
		var cfg Config
		d.MaybeScanArgs(t, "budget", &cfg.StreamBudget)
		d.MaybeScanArgs(t, "max", &cfg.MaxWatchers)
		sc.restart(cfg)
	case "commit":
		sc.write(d.Input)
		sc.store.notify()
		return sc.at()
	case "hold":
		sc.write(d.Input)
		return sc.at()
	case "notify":
		sc.store.notify()
		return sc.at()
	case "reset":
		sc.write(d.Input)
		sc.store.reset()
		return sc.at()
	case "before-view", "after-view":
		input := d.Input
		f := func() {
			sc.write(input)
			sc.store.notify()
		}
		if d.Cmd == "before-view" {
			sc.store.beforeView = f
		} else {
			sc.store.afterView = f
		}
	case "compact":
		var rev int64
		d.ScanArgs(t, "rev", &rev)
		sc.store.compact(t, rev)
	case "watch":
		sc.watch(d)
	case "cancel":
		var id int64
		d.ScanArgs(t, "id", &id)
		sc.stream(d).Cancel(id)
	case "progress":
		sc.stream(d).RequestProgress()
	case "tick":
		sc.stream(d).Tick()
	case "refuse":
		sc.stream(d).Refuse(fmt.Errorf("not for you"))
	case "close":
		sc.stream(d).Close()
	case "poll":
		return sc.poll(d)
	case "stats":
		s := sc.store.hub.Stats()
		return fmt.Sprintf("streams=%d watchers=%d behind=%d pending=%d events=%d demotions=%d\n", s.Streams, s.Watchers, s.Behind, s.PendingEvents, s.Events, s.Demotions)
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return ""
}

func (sc *script) at() string {
	return fmt.Sprintf("store=%d hub=%d\n", sc.store.kv.Rev(), sc.store.hub.Rev())
}

func (sc *script) write(input string) {
	for line := range strings.Lines(input) {
		var ops []op
		for part := range strings.SplitSeq(strings.TrimSpace(line), ";") {
			f := strings.Fields(part)
			switch {
			case len(f) == 3 && f[0] == "put":
				v := f[2]
				var n int
				if _, err := fmt.Sscanf(v, "*%d", &n); err == nil {
					v = strings.Repeat("x", n)
				}
				ops = append(ops, op{key: f[1], value: v})
			case len(f) == 2 && f[0] == "del":
				ops = append(ops, op{key: f[1], del: true})
			case len(f) == 3 && f[0] == "del":
				ops = append(ops, op{key: f[1], end: f[2], del: true})
			default:
				sc.t.Fatalf("bad operation %q", part)
			}
		}
		sc.store.commit(ops...)
	}
}

func (sc *script) watch(d *datadriven.TestData) {
	var r Request
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "key":
			if len(a.Vals) > 0 {
				r.Key = []byte(a.Vals[0])
			}
		case "end":
			r.End = []byte(a.Vals[0])
			if a.Vals[0] == "*" {
				r.End = []byte{0}
			}
		case "rev":
			a.Scan(sc.t, 0, &r.StartRev)
		case "id":
			a.Scan(sc.t, 0, &r.ID)
		case "prev":
			r.PrevKV = true
		case "progress":
			r.Progress = true
		case "fragment":
			r.Fragment = true
		case "noput":
			r.NoPut = true
		case "nodelete":
			r.NoDelete = true
		case "stream":
		default:
			d.Fatalf(sc.t, "unknown argument %s", a.Key)
		}
	}
	sc.stream(d).Watch(r)
}

func (sc *script) poll(d *datadriven.TestData) string {
	n := 1 << 20
	d.MaybeScanArgs(sc.t, "n", &n)
	var out strings.Builder
	for range n {
		r, ok, err := sc.stream(d).Poll(sc.t.Context())
		if err != nil {
			fmt.Fprintf(&out, "error: %v\n", err)
			break
		}
		if !ok {
			break
		}
		out.WriteString(show(sc.t, r) + "\n")
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}
