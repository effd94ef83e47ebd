package h2load

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/musterhq/muster/cmd/muster/bench/histogram"
)

var errUnsupported = errors.ErrUnsupported

// maxMessage bounds a reply that is looked at.
const maxMessage = 1 << 30

// Config says what to call, how often and of whom.
type Config struct {
	// Addrs are the servers, host:port; connections take turns.
	Addrs []string
	// Conns is the number of connections, Clients of calls outstanding over all of them.
	// 0 means 1, and as many clients as connections.
	Conns, Clients int
	// Method is the path, such as "/etcdserverpb.KV/Put".
	Method string
	// Next makes, for a connection, the function that appends a client's next request
	// message. It is called from one goroutine a connection.
	Next func(conn int) func(client int, dst []byte) []byte
	// Receive makes, for a connection, the function that sees each reply message; at is
	// the time since the run's beginning. An error counts as the call's. msg is valid
	// during the call only. nil: replies are counted unseen.
	Receive func(conn int) func(client int, msg []byte, at time.Duration) error
	// Stream keeps one stream a client, on which each message is answered by a message.
	Stream bool
	// Push, with Stream, expects messages without asking for them: each client opens a
	// stream, sends its Opening messages, and receives until the context ends.
	Push bool
	// Opening is the number of messages that a connection's streams begin with; nil means 1.
	Opening func(conn int) int
	// Total ends the run after so many calls, Duration after a time; the first reached
	// counts, and 0 is no limit. Calls outstanding then are waited for.
	Total    int
	Duration time.Duration
	// Rate is calls a second over all connections; 0 is as fast as answers come.
	Rate float64
	// Timeout is how long a server may be silent; 0 means 30 s.
	Timeout time.Duration
	// Begin is called when all connections stand, End when the last answer has come.
	Begin, End func()
	// Progress is told now and then how many calls were answered.
	Progress func(done int64)
}

// authority is what calls state; servers of one cluster don't look at it.
func (cfg *Config) authority() string { return cfg.Addrs[0] }

func (cfg *Config) setDefaults() error {
	if len(cfg.Addrs) == 0 {
		return errors.New("h2load: no server: give at least one host:port")
	}
	cfg.Conns = max(cfg.Conns, 1)
	if cfg.Clients == 0 {
		cfg.Clients = cfg.Conns
	}
	if cfg.Clients < cfg.Conns {
		return fmt.Errorf("h2load: %d clients can't use %d connections: use at least one a connection", cfg.Clients, cfg.Conns)
	}
	if cfg.Push {
		cfg.Stream, cfg.Total = true, cfg.Clients
	}
	if cfg.Total <= 0 && cfg.Duration <= 0 {
		return errors.New("h2load: neither a number of calls nor a duration: give one")
	}
	if cfg.Rate < 0 || cfg.Timeout < 0 {
		return errors.New("h2load: a rate or a time-out below zero: use 0 for none")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	return nil
}

// Report is what a run found.
type Report struct {
	// Begun are calls that were sent, Done those that succeeded.
	Begun, Done uint64
	// Errors counts failed calls by what the server said.
	Errors map[string]uint64
	// Bytes are of reply messages, their prefixes included.
	Bytes   uint64
	Elapsed time.Duration
	Latency histogram.Histogram
}

// Failed is the number of failed calls.
func (r *Report) Failed() (n uint64) {
	for _, k := range r.Errors {
		n += k
	}
	return n
}

// FirstError names the most frequent failure, "" without any.
func (r *Report) FirstError() string {
	var names []string
	for name := range r.Errors {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(r.Errors[b]) - int(r.Errors[a]) })
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// PerSecond is the rate of successful calls.
func (r *Report) PerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Done) / r.Elapsed.Seconds()
}

func (r *Report) add(s *stats) {
	r.Begun += s.begun
	r.Done += s.done
	r.Bytes += s.bytes
	r.Latency.Merge(&s.latency)
	for what, n := range s.errors {
		r.Errors[what] += n
	}
}

func codeName(code int) string { return codes.Code(uint32(code)).String() }
