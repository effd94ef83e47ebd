package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/musterhq/muster/recipes/election"
	"github.com/musterhq/muster/recipes/lock"
	"github.com/musterhq/muster/sdk"
)

// recipeWorkerEnv makes the test's program a client that uses a recipe as the
// docs teach it. Being a process of its own it can be stopped and go on.
const recipeWorkerEnv = "MUSTER_E2E_RECIPE_WORKER"

// recipeSpec is what the variable holds.
type recipeSpec struct {
	Name, Line string
	Election   bool
	Endpoints  []string
	TTL        time.Duration
}

// recipeEvent is one line of what a worker reports on stdout.
type recipeEvent struct {
	Event string        `json:"event"`
	Who   string        `json:"who"`
	Line  string        `json:"line"`
	At    time.Duration `json:"at"` // machine's clock
	Token int64         `json:"token,omitempty"`
	Lease int64         `json:"lease,omitempty"`
	Alive bool          `json:"alive,omitempty"`
	Err   string        `json:"err,omitempty"`
}

// clock is the same in all processes of a machine.
func clock() time.Duration { return time.Duration(time.Now().UnixNano()) }

const (
	// workersPerProcess share one session.
	workersPerProcess = 2
	// settleTime bounds every wait once faults have stopped.
	settleTime = 60 * time.Second
)

// worker is the process: SIGUSR1 tells it that faults have stopped, whereupon
// each goroutine takes one more turn and says so; SIGTERM ends it.
type worker struct {
	recipeSpec
	client *sdk.Client
	calm   context.Context

	session struct {
		sync.Mutex
		*sdk.Session
	}
	out sync.Mutex
}

func recipeWorker(spec string) int {
	w := &worker{}
	if err := json.Unmarshal([]byte(spec), &w.recipeSpec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	calm, stop := signal.NotifyContext(context.Background(), syscall.SIGUSR1)
	defer stop()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	w.calm = calm
	client, err := sdk.Open(context.Background(), sdk.Config{Endpoints: w.Endpoints})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w.client = client
	var wg sync.WaitGroup
	for i := range workersPerProcess {
		wg.Go(func() { w.work(fmt.Sprintf("%s.%d", w.Name, i)) })
	}
	observing, stopObserving := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	if w.Election {
		watching.Go(func() { w.observe(observing) })
	}
	wg.Wait()
	<-end
	stopObserving()
	watching.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	w.session.Lock()
	defer w.session.Unlock()
	if w.session.Session != nil {
		if err := w.session.Close(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := client.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (w *worker) report(e recipeEvent) {
	e.Line = w.Line
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	w.out.Lock()
	defer w.out.Unlock()
	fmt.Println(string(line))
}

// current is the session in use, a new one if the last is lost.
func (w *worker) current(ctx context.Context) (*sdk.Session, error) {
	w.session.Lock()
	defer w.session.Unlock()
	if s := w.session.Session; s != nil {
		if s.Err() == nil {
			return s, nil
		}
		s.Orphan() // lost: what is left of it ends by itself
	}
	s, err := sdk.NewSession(ctx, w.client, sdk.WithTTL(w.TTL))
	w.session.Session = s
	return s, err
}

func (w *worker) work(who string) {
	for w.calm.Err() == nil {
		// Most wait until they are served; some lose patience, some won't wait.
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(100+rand.IntN(400))*time.Millisecond)
		if rand.IntN(4) > 0 {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), settleTime)
		}
		if err := w.turn(ctx, who, rand.IntN(5) == 0); err != nil {
			w.report(recipeEvent{Event: "failed", Who: who, At: clock(), Err: err.Error()})
			pause(5 * time.Millisecond)
		}
		cancel()
	}
	w.report(recipeEvent{Event: "calm", Who: who, At: clock()})
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	for {
		err := w.turn(ctx, who, false)
		if err == nil {
			w.report(recipeEvent{Event: "settled", Who: who, At: clock()})
			return
		}
		if !errors.Is(err, sdk.ErrSessionLost) || ctx.Err() != nil { // its session may be lost by what happened before
			w.report(recipeEvent{Event: "stuck", Who: who, At: clock(), Err: err.Error()})
			return
		}
	}
}

// held is what a lock and a leadership have in common.
type held interface {
	Context() context.Context
	Token() sdk.Token
	Guard() []sdk.Cmp
}

func (w *worker) acquire(ctx context.Context, s *sdk.Session, try bool) (held, func(context.Context) error, error) {
	if w.Election {
		l, err := election.New(s, w.Line).Campaign(ctx, []byte(w.Name))
		if err != nil {
			return nil, nil, err
		}
		return l, l.Resign, nil
	}
	m := lock.NewMutex(s, w.Line)
	take := m.Lock
	if try {
		take = m.TryLock
	}
	l, err := take(ctx)
	if err != nil {
		return nil, nil, err
	}
	return l, l.Unlock, nil
}

// turn is one time at the front of the line. Each write is preceded by a look at
// the handle, made under its context and guarded by its token.
func (w *worker) turn(ctx context.Context, who string, try bool) error {
	s, err := w.current(ctx)
	if err != nil {
		return err
	}
	h, leave, err := w.acquire(ctx, s, try && w.calm.Err() == nil)
	if errors.Is(err, lock.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	token := h.Token().Revision
	w.report(recipeEvent{Event: "held", Who: who, At: clock(), Token: token, Lease: s.Lease()})
	for range 1 + rand.IntN(5)*rand.IntN(5) {
		now := clock()
		if h.Context().Err() != nil {
			w.report(recipeEvent{Event: "over", Who: who, At: now, Token: token})
			break
		}
		w.report(recipeEvent{Event: "alive", Who: who, At: now, Token: token})
		w.write(h, who, token)
		pause(time.Duration(rand.IntN(8)) * time.Millisecond)
	}
	leaving, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	if err := leave(leaving); err != nil && !errors.Is(err, sdk.ErrSessionLost) && !errors.Is(err, sdk.ErrSessionClosed) {
		return err
	}
	return nil
}

func (w *worker) write(h held, who string, token int64) {
	ctx, cancel := context.WithTimeout(h.Context(), 3*time.Second)
	defer cancel()
	r, err := w.client.Txn(ctx, sdk.Txn{
		If:   h.Guard(),
		Then: []sdk.Op{sdk.OpPut(guardedKey(w.Line), fmt.Appendf(nil, "%d %s", token, who))},
	})
	switch {
	case err != nil:
		w.report(recipeEvent{Event: "unwritten", Who: who, At: clock(), Token: token, Err: err.Error()})
	case !r.Succeeded:
		w.report(recipeEvent{Event: "refused", Who: who, At: clock(), Token: token, Alive: h.Context().Err() == nil})
	default:
		w.report(recipeEvent{Event: "wrote", Who: who, At: clock(), Token: token})
	}
}

func guardedKey(line string) string { return "guarded/" + line }

// observe checks that what an observer is told never goes back.
func (w *worker) observe(ctx context.Context) {
	var last int64
	for ctx.Err() == nil {
		for ev, err := range election.NewObserver(w.client, w.Line).Observe(ctx) {
			if err != nil {
				break
			}
			if ev.Leader == nil {
				continue
			}
			if t := ev.Leader.Token.Revision; t < last {
				w.report(recipeEvent{Event: "went back", Who: w.Name, At: clock(), Token: t, Err: fmt.Sprintf("after %d", last)})
			} else {
				last = t
			}
		}
		pause(5 * time.Millisecond)
	}
}

// pause is the time that work takes.
func pause(d time.Duration) { <-time.After(d) }
