// Command election keeps one worker of many active: start it several times, then stop or kill the one that leads.
//
//	go run ./examples/election --endpoints 127.0.0.1:2379 --id a
//	go run ./examples/election --endpoints 127.0.0.1:2379 --id b
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/recipes/election"
	"github.com/musterhq/muster/sdk"
)

func main() {
	endpoints := flag.String("endpoints", "127.0.0.1:2379", "members' client addresses, separated by commas")
	name := flag.String("name", "examples/election", "the election to stand in")
	host, _ := os.Hostname()
	id := flag.String("id", fmt.Sprintf("%s-%d", host, os.Getpid()), "what others see when this one leads")
	ttl := flag.Duration("ttl", 10*time.Second, "how long others wait for a leader that vanished")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, strings.Split(*endpoints, ","), *name, *id, *ttl); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, endpoints []string, name, id string, ttl time.Duration) error {
	c, err := sdk.Open(ctx, sdk.Config{Endpoints: endpoints})
	if err != nil {
		return err
	}
	defer c.Close()
	// A lost session stays lost, so standing again takes a new one.
	for {
		err := stand(ctx, c, name, id, ttl)
		if ctx.Err() != nil {
			log.Print("stopped")
			return nil
		}
		if !errors.Is(err, sdk.ErrSessionLost) && !errors.Is(err, election.ErrNotLeader) {
			return err
		}
		log.Printf("standing again after: %v", err)
	}
}

// stand takes part with one session until ctx ends or the session is lost.
func stand(ctx context.Context, c *sdk.Client, name, id string, ttl time.Duration) (err error) {
	s, err := sdk.NewSession(ctx, c, sdk.WithTTL(ttl))
	if err != nil {
		return err
	}
	// Leaving politely lets the next one lead at once. ctx may have ended by then.
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		err = errors.Join(err, s.Close(bye))
	}()

	e := election.New(s, name)
	if leader, ok, err := e.Leader(ctx); err == nil && ok {
		log.Printf("%s leads, %s waits", leader.Value, id)
	}
	l, err := e.Campaign(ctx, []byte(id))
	if err != nil {
		return err
	}
	log.Printf("%s leads, with token %v", id, l.Token())
	return work(ctx, l)
}

// work does what only the leader may do, for as long as it leads.
func work(ctx context.Context, l *election.Leadership) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			log.Print("working")
		case <-l.Context().Done():
			return context.Cause(l.Context())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
