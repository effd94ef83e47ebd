package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/transport"
	"github.com/musterhq/muster/core/vfs"
	"github.com/musterhq/muster/core/wal"
	"github.com/musterhq/muster/core/watch"
)

// Config of a Node. Name, Dir and, on a first start, InitialCluster are
// required; everything else has a default.
type Config struct {
	Name string
	Dir  string // data directory; created with mode 0700
	FS   vfs.FS // default vfs.OS()

	// InitialCluster maps member names to their advertised peer URLs; read on
	// the first start only. Token keeps clusters of equal URLs apart.
	InitialCluster map[string][]string
	Token          string
	// Join: on the first start, become a member that has been added to the
	// running cluster of InitialCluster, instead of founding a new one.
	Join bool
	// Ask gives the ClusterInfo of the member at a peer URL, as JSON. Default:
	// ask it over the network.
	Ask        func(ctx context.Context, peerURL string) ([]byte, error)
	ClientURLs []string // advertised; published to the cluster

	PeerListeners []net.Listener

	Tick          time.Duration // heartbeat interval, default 100 ms
	ElectionTicks int           // default 10

	Machine machine.Config
	Watch   watch.Config

	// NoStrictReconfig takes membership changes that could cost the quorum.
	NoStrictReconfig bool
	// HealthInterval is how long members must have been connected before the
	// membership may change (default 5 s, as etcd).
	HealthInterval time.Duration

	NoSync bool // unsafe: acknowledge before anything is on disk

	// CheckpointBytes is how much log makes a checkpoint due (default: the
	// larger of 256 MiB and a quarter of the data).
	CheckpointBytes int64
	// PaceBytes bounds how fast a checkpoint is written, in bytes per second
	// (default 64 MiB/s).
	PaceBytes int64

	// SegmentBytes is the size of the log's segments (default 64 MiB).
	SegmentBytes int64
	// KeepBytes of applied entries stay in memory for followers that lag a
	// little (default 16 MiB).
	KeepBytes int

	// MaxPending is how many client commands may wait for their result before more are refused (default 20,000).
	MaxPending     int
	RequestTimeout time.Duration // default 5 s + 2 election time-outs, as etcd

	Logger  *slog.Logger
	Metrics Metrics
	Wall    func() time.Time // default time.Now

	// ConnectedSince says since when this member has been connected to another one,
	// on the stepper's clock. A Node asks its transport.
	ConnectedSince func(id uint64) (time.Duration, bool)
}

// Metrics are called with what an operator measures; nil fields are skipped.
// They must be quick and safe for concurrent use.
type Metrics struct {
	LogSync  func(time.Duration)
	LogWrite func(d time.Duration, bytes int)
	// CheckpointSync is one of the syncs of a checkpoint being written or
	// received, CheckpointTaken the whole of one that was written.
	CheckpointSync  func(time.Duration)
	CheckpointTaken func(d time.Duration, bytes int64)
	// Peers counts what goes to and comes from other members.
	Peers transport.Metrics
	// PeerRoundTrip is how long a leader waited for a follower's answer to a
	// heartbeat, both loops included.
	PeerRoundTrip func(peer uint64, d time.Duration)
}

func (c *Config) log() wal.Config {
	return wal.Config{
		FS: c.FS, Dir: filepath.Join(c.Dir, logDir), Logger: c.Logger, NoSync: c.NoSync, SegmentSize: c.SegmentBytes,
		OnSync: c.Metrics.LogSync, OnWrite: c.Metrics.LogWrite, Now: c.Wall,
	}
}

func (c *Config) checkpoints() checkpoint.Config {
	return checkpoint.Config{FS: c.FS, Dir: filepath.Join(c.Dir, checkpointDir), Logger: c.Logger, OnSync: c.Metrics.CheckpointSync, Now: c.Wall}
}

func (c *Config) setDefaults() error {
	if c.Dir == "" {
		return errors.New("no data directory: set --data-dir")
	}
	if c.FS == nil {
		c.FS = vfs.OS()
	}
	if c.Tick == 0 {
		c.Tick = 100 * time.Millisecond
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.ElectionTicks < 2 {
		return fmt.Errorf("election timeout of %d ticks is too short: use at least 5 heartbeat intervals", c.ElectionTicks)
	}
	if c.PaceBytes == 0 {
		c.PaceBytes = 64 << 20
	}
	if c.HealthInterval == 0 {
		c.HealthInterval = 5 * time.Second
	}
	if c.Ask == nil {
		c.Ask = askPeer
	}
	if c.MaxPending == 0 {
		c.MaxPending = 20_000
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 5*time.Second + 2*c.electionTimeout()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	return nil
}

func (c *Config) electionTimeout() time.Duration { return c.Tick * time.Duration(c.ElectionTicks) }
