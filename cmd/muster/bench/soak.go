package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/cmd/muster/bench/h2load"
	"github.com/musterhq/muster/cmd/muster/bench/process"
)

const (
	compactMethod = "/etcdserverpb.KV/Compact"

	// What the server promises.
	headroom     = 256 << 20
	timesLive    = 2
	syncP99Limit = 10 * time.Millisecond
)

// soak is `bench soak-memory`.
type soak struct {
	options
	puts
	binary    string
	dir       string
	longLived float64 // percent
	keep      int64   // revisions
}

func soakCommand() *cobra.Command {
	var s soak
	cmd := &cobra.Command{
		Use:   "soak-memory",
		Short: "Memory and log syncs under overwrites of which some are long-lived, with steady compaction",
		Long: fmt.Sprintf(`Memory and log syncs under overwrites of which some are long-lived, with steady compaction.

Starts a server of its own with its shipped settings, overwrites a set of keys while a share of the puts
makes new keys that stay, and compacts every second. The server keeps its promise if its resident memory
was never above %d × live bytes + %d MiB, and if the p99 of log syncs while a checkpoint is written is at
most %v. Live bytes are what the server counts as in use, kept history included.`, timesLive, headroom>>20, syncP99Limit),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.resolve(cmd); err != nil {
				return err
			}
			return s.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.binary, "muster", "", "Muster's program (default: this one)")
	f.StringVar(&s.dir, "dir", "", "where the server's folder is made; on a disk whose syncs are real (default: the temporary folder)")
	f.DurationVar(&s.duration, "duration", 10*time.Minute, "how long to run")
	f.IntVar(&s.conns, "conns", 100, "connections")
	f.IntVar(&s.clients, "clients", 1000, "clients over all connections, each with one put outstanding")
	f.Float64Var(&s.rate, "rate", 0, "puts a second at most (0: as fast as answers come)")
	f.Float64Var(&s.longLived, "long-lived", 1, "percent of puts that make a new key, which stays")
	f.Int64Var(&s.keep, "keep-revisions", 10000, "revisions that compaction leaves")
	f.Uint64Var(&s.seed, "seed", 1, "what random choices begin from")
	f.IntVar(&s.size, "key-size", 8, "bytes of a key")
	f.IntVar(&s.keys, "key-space-size", 100000, "number of keys that are overwritten")
	f.IntVar(&s.valueSize, "val-size", 256, "bytes of a value")
	f.StringVarP(&s.output, "write-out", "w", "simple", "simple or json")
	return cmd
}

func (s *soak) resolve(cmd *cobra.Command) error {
	if s.duration <= 0 || s.keep < 1 || s.longLived < 0 || s.longLived > 100 {
		return usagef("--duration %v, --keep-revisions %d, --long-lived %v: use more than 0, 1 or more, and 0 to 100", s.duration, s.keep, s.longLived)
	}
	if s.binary == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		s.binary = self
	}
	return errors.Join(s.options.resolve(cmd.Flags()), s.puts.validate())
}

// requests overwrites random keys, and now and then makes a new one.
func (s *soak) requests() func(conn int) func(client int, dst []byte) []byte {
	message, keyAt := putRequest(s.size, randomValue(s.valueSize, s.seed))
	var fresh atomic.Int64
	return func(conn int) func(int, []byte) []byte {
		rng := rand.New(rand.NewPCG(s.seed, uint64(conn)))
		return func(_ int, dst []byte) []byte {
			at := len(dst) + keyAt
			dst = append(dst, message...)
			key := dst[at : at+s.size]
			if rng.Float64()*100 < s.longLived {
				s.set(key, int(fresh.Add(1)))
				key[0] = 'n' // apart from those that are overwritten
			} else {
				s.set(key, rng.IntN(s.keys))
			}
			return dst
		}
	}
}

// run starts the server, loads it, watches it, and prints what it saw.
func (s *soak) run(cmd *cobra.Command) (err error) {
	ctx, stop := interruptible(cmd)
	defer stop()
	dir, err := os.MkdirTemp(s.dir, "muster-soak-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := newServer(kindMuster, s.binary, filepath.Join(dir, kindMuster), -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.remove()) }()
	if _, err := server.start(ctx); err != nil {
		return err
	}
	s.addrs, s.serverPIDs = []string{server.addr}, []int{server.pid()}
	m, err := newMeter(&s.options)
	if err != nil {
		return err
	}

	cfg := s.load(putMethod)
	cfg.Next, cfg.Begin, cfg.End = s.requests(), m.begin, m.end
	loading, unload := context.WithCancel(ctx)
	defer unload()
	type ended struct {
		report h2load.Report
		err    error
	}
	end := make(chan ended, 1)
	done := make(chan struct{})
	go func() {
		r, err := h2load.Run(loading, cfg)
		end <- ended{r, err}
		close(done)
	}()
	p := newProgress(cmd.ErrOrStderr(), "soak-memory", &s.options)
	seen, err := s.observe(ctx, server, done, p)
	p.clear()
	unload()
	e := <-end
	if err = errors.Join(err, e.err); err != nil && ctx.Err() == nil {
		return fmt.Errorf("bench soak-memory: %w", err)
	}
	load := m.result("soak-memory", &e.report)
	load.Connections, load.Clients, load.Interrupted = s.conns, s.clients, ctx.Err() != nil
	r := seen.report(load)
	if err := r.write(cmd.OutOrStdout(), s.output); err != nil {
		return err
	}
	if load.Failed > 0 {
		return fmt.Errorf("bench soak-memory: %d puts failed, most often: %s", load.Failed, load.FirstError)
	}
	return server.stop(syscall.SIGTERM)
}

const (
	metricSync       = "etcd_disk_wal_fsync_duration_seconds"
	metricCheckpoint = "etcd_disk_backend_snapshot_duration_seconds"
	metricLive       = "etcd_mvcc_db_total_size_in_use_in_bytes"
	metricKeys       = "etcd_debugging_mvcc_keys_total"
)

// observe looks four times a second and compacts every second, until the load is done.
func (s *soak) observe(ctx context.Context, server *serverProcess, done <-chan struct{}, p *progress) (observations, error) {
	const look, compactEvery = 250 * time.Millisecond, 4
	metrics := newScraper(server.addr)
	defer metrics.close()
	c, err := h2load.Dial(ctx, server.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var seen observations
	start := time.Now()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return seen, nil
		case <-done:
			return seen, nil
		case <-tick.C:
		}
		got, err := metrics.read(ctx, metricSync, metricCheckpoint, metricLive, metricKeys)
		if err != nil {
			return seen, err
		}
		mem, err := process.MemoryOf(server.pid())
		if err != nil {
			return seen, err
		}
		seen = append(seen, observation{
			at: time.Since(start), resident: mem.Resident, live: int64(got[metricLive]), keys: int64(got[metricKeys]),
			syncs: got.bucketsOf(metricSync), checkpoints: got[metricCheckpoint+"_count"], checkpointsTook: got[metricCheckpoint+"_sum"],
		})
		if n%compactEvery == 0 {
			rev, err := s.compact(ctx, c)
			if err != nil {
				return seen, err
			}
			p.show(rev)
		}
	}
}

// compact leaves the revisions to be kept and says which is the current one.
func (s *soak) compact(ctx context.Context, c *h2load.Client) (int64, error) {
	request, err := proto.Marshal(&pb.RangeRequest{Key: []byte("0"), Serializable: true, CountOnly: true})
	if err != nil {
		return 0, err
	}
	reply, err := c.Call(ctx, rangeMethod, request)
	if err != nil {
		return 0, err
	}
	var now pb.RangeResponse
	if err := proto.Unmarshal(reply, &now); err != nil {
		return 0, err
	}
	rev := now.GetHeader().GetRevision()
	if rev <= s.keep {
		return rev, nil
	}
	if request, err = proto.Marshal(&pb.CompactionRequest{Revision: rev - s.keep}); err != nil {
		return 0, err
	}
	_, err = c.Call(ctx, compactMethod, request)
	return rev, err
}
