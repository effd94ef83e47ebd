// Command lock adds to a counter under a lock, from as many processes as you start, and shows why a lock needs fencing:
// each change is conditional on still holding the lock, so even a holder that was stopped for too long can't do harm.
//
//	go run ./examples/lock --endpoints 127.0.0.1:2379 --rounds 20
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/recipes/lock"
	"github.com/musterhq/muster/sdk"
)

const counter = "examples/counter"

func main() {
	endpoints := flag.String("endpoints", "127.0.0.1:2379", "members' client addresses, separated by commas")
	name := flag.String("name", "examples/lock", "the lock to take")
	rounds := flag.Int("rounds", 10, "how often to add to the counter")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, strings.Split(*endpoints, ","), *name, *rounds); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, endpoints []string, name string, rounds int) (err error) {
	c, err := sdk.Open(ctx, sdk.Config{Endpoints: endpoints})
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := sdk.NewSession(ctx, c)
	if err != nil {
		return err
	}
	// Closing frees the lock at once, also when Ctrl-C came in the middle.
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		err = errors.Join(err, s.Close(bye))
	}()

	m := lock.NewMutex(s, name)
	for range rounds {
		if err := once(ctx, c, m); err != nil {
			return err
		}
	}
	return nil
}

// once adds one under the lock.
func once(ctx context.Context, c *sdk.Client, m *lock.Mutex) error {
	l, err := m.Lock(ctx)
	if err != nil {
		return err
	}
	n, err := add(l.Context(), c, l)
	if err == nil {
		log.Printf("counter is %d, token %v", n, l.Token())
	}
	return errors.Join(err, l.Unlock(ctx))
}

// add reads and writes in two steps, which only the lock makes safe; the guard makes it safe without trusting clocks.
func add(ctx context.Context, c *sdk.Client, l *lock.Lock) (int, error) {
	r, err := c.Get(ctx, counter)
	if err != nil {
		return 0, err
	}
	n := 0
	if kv, ok := r.First(); ok {
		if n, err = strconv.Atoi(string(kv.Value)); err != nil {
			return 0, fmt.Errorf("key %s is not a number; delete it: %w", counter, err)
		}
	}
	t, err := c.Txn(ctx, sdk.Txn{
		If:   l.Guard(),
		Then: []sdk.Op{sdk.OpPut(counter, []byte(strconv.Itoa(n+1)))},
	})
	if err != nil {
		return 0, err // sdk.ErrUnknownOutcome: read the counter to find out
	}
	if !t.Succeeded {
		return 0, lock.ErrNotHeld
	}
	return n + 1, nil
}
