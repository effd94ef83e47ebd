package server

import (
	"context"
	"math"
	"net"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/node"
	"github.com/musterhq/muster/core/ops"
	"github.com/musterhq/muster/core/rpc"
	"github.com/musterhq/muster/core/transport"
	"github.com/musterhq/muster/core/watch"
)

// Node is the member as the server sees it; *node.Node is one.
type Node interface {
	rpc.Node
	ID() uint64
	ClusterID() uint64
	Hub() *watch.Hub
	// Room is how many more writes the member takes on, out of how many.
	Room() (free, of int)
	// WaitReady returns once the member serves: it knows a leader and has
	// caught up.
	WaitReady(ctx context.Context) error
	// Done is closed when the member stops, Err says why if by itself.
	Done() <-chan struct{}
	Err() error
	Close(ctx context.Context) error
}

func openNode(ctx context.Context, cfg node.Config) (Node, error) {
	n, err := node.Open(ctx, cfg)
	if err != nil {
		return nil, err // not n: a nil *node.Node isn't a nil Node
	}
	return n, nil
}

// nodeConfig is the one place where a server's settings become a node's.
func nodeConfig(c *Config, peers []net.Listener, in *ops.Instruments) (node.Config, error) {
	nc, err := c.founding()
	if err != nil {
		return node.Config{}, err
	}
	nc.Join = c.InitialClusterState == "existing"
	nc.ClientURLs = c.AdvertiseClientURLs
	nc.PeerListeners = peers
	nc.Tick = c.HeartbeatInterval
	nc.ElectionTicks = int(c.ElectionTimeout / c.HeartbeatInterval)
	nc.Machine = machine.Config{
		Settings: machine.Settings{
			Quota:           c.QuotaBackendBytes,
			MaxTxnOps:       int64(c.MaxTxnOps),
			MaxRequestBytes: int64(c.MaxRequestBytes),
			MinLeaseTTL:     int64(math.Ceil(1.5 * c.ElectionTimeout.Seconds())),
			MaxLearners:     int64(c.MaxLearners),
		},
		Logger: c.Logger,
	}
	nc.Watch = watch.Config{Logger: c.Logger}
	nc.NoSync = c.UnsafeNoFsync
	nc.NoStrictReconfig = !c.StrictReconfigCheck
	nc.MaxPending = int(c.MaxPendingRequests)
	nc.Logger = c.Logger
	nc.Metrics = nodeMetrics(in)
	return nc, nil
}

// nodeMetrics shows an operator what a member measures.
func nodeMetrics(in *ops.Instruments) node.Metrics {
	return node.Metrics{
		LogSync: func(d time.Duration) { in.WALFsync.Observe(d.Seconds()) },
		LogWrite: func(d time.Duration, bytes int) {
			in.WALWrite.Observe(d.Seconds())
			in.WALBytes.Add(float64(bytes))
		},
		CheckpointSync:  func(d time.Duration) { in.CheckpointSync.Observe(d.Seconds()) },
		CheckpointTaken: func(d time.Duration, _ int64) { in.Checkpoint.Observe(d.Seconds()) },
		Peers: transport.Metrics{
			Sent: func(peer uint64, bytes int) {
				in.PeerSentBytes.WithLabelValues(membership.FormatID(peer)).Add(float64(bytes))
			},
			Received: func(peer uint64, bytes int) {
				in.PeerRecvBytes.WithLabelValues(membership.FormatID(peer)).Add(float64(bytes))
			},
			Lost: func(peer uint64) { in.PeerSentFailed.WithLabelValues(membership.FormatID(peer)).Inc() },
		},
		PeerRoundTrip: func(peer uint64, d time.Duration) {
			in.PeerRoundTrip.WithLabelValues(membership.FormatID(peer)).Observe(d.Seconds())
		},
	}
}

// opsMember tells ops what it asks about a Node.
type opsMember struct{ Node }

func (m opsMember) Alarms() []string {
	var names []string
	for _, a := range m.View().Alarms {
		names = append(names, a.Type.String())
	}
	return names
}

func (m opsMember) Stats() ops.Stats {
	st, v, w := m.Status(), m.View(), m.Hub().Stats()
	s := ops.Stats{
		HasLeader:          st.Leader != 0,
		IsLeader:           st.Leader == st.ID,
		ClusterVersion:     v.ClusterVersion,
		LeaderChanges:      uint64(st.LeaderChanges),
		ProposalsCommitted: st.CommitIndex,
		ProposalsApplied:   st.AppliedIndex,
		ProposalsFailed:    uint64(st.FailedProposals),
		ProposalsPending:   st.Pending,
		DBSize:             st.DBSize,
		DBInUse:            st.InUse,
		Quota:              st.Quota,
		Revision:           v.KV.Rev(),
		CompactRevision:    v.KV.CompactRev(),
		Keys:               v.KV.Keys(),
		WatchStreams:       w.Streams,
		Watchers:           w.Watchers,
		SlowWatchers:       w.Behind,
		PendingEvents:      w.PendingEvents,
		Events:             w.Events,
		WatchersFellBehind: w.Demotions,
		ConnectedPeers:     st.ConnectedPeers,

		Puts: st.Puts, Deletes: st.Deletes, Txns: st.Txns,
		LeasesGranted: st.LeasesGranted, LeasesRevoked: st.LeasesRevoked,
		LeasesRenewed: st.LeasesRenewed, LeasesExpired: st.LeasesExpired,
		ReadIndexesFailed: st.FailedReads, HeartbeatSendFailure: st.LateHeartbeats,
		ApplyingSnapshot: st.Restoring,
		DivergedMembers:  v.Diverged,
	}
	for _, member := range v.Members {
		s.Peers = append(s.Peers, member.ID)
	}
	return s
}
