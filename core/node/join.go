package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/transport"
	"github.com/musterhq/muster/core/wal"
)

// A member that joins a running cluster begins with an empty log and no state
// at all, at index 0: the leader brings it up with a checkpoint. All it must
// know beforehand is who it is, and it writes that into its log's header before
// it says a word; so whatever moment it crashes at, it starts again as the same
// member or has never been one.

// ClusterInfo is what a member tells one that is about to join.
type ClusterInfo struct {
	Version   int                 `json:"version"`
	ClusterID uint64              `json:"cluster"`
	Members   []membership.Member `json:"members"`
	Removed   []uint64            `json:"removed"`
}

const clusterInfoVersion = 1

// Refusals of a join.
var (
	ErrNotAdded    = errors.New("no member with this one's peer URLs has been added to the cluster: run 'member add' first, or correct --initial-cluster")
	ErrLostData    = errors.New("this member has already run, and its data directory is gone: remove it from the cluster, delete what is left and add it again")
	ErrNoPeer      = errors.New("none of the peers in --initial-cluster could be asked about the cluster")
	ErrTwoClusters = errors.New("the peers in --initial-cluster belong to different clusters")
)

func askPeer(ctx context.Context, url string) ([]byte, error) { return transport.Ask(ctx, url, nil) }

// askPeers asks each of the other members in --initial-cluster once. An answer
// that knows no members comes from one that has just joined itself.
func askPeers(ctx context.Context, cfg *Config) (infos []ClusterInfo, complete bool, _ error) {
	complete = true
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(cfg.InitialCluster)) {
		if name == cfg.Name {
			continue
		}
		answered := false
		for _, url := range cfg.InitialCluster[name] {
			info, err := askOne(ctx, cfg, url)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s at %s: %w", name, url, err))
				continue
			}
			answered = true
			if len(info.Members) > 0 {
				infos = append(infos, info)
			}
			break
		}
		complete = complete && answered
	}
	for _, info := range infos {
		if a, b := infos[0].ClusterID, info.ClusterID; a != b {
			return nil, false, fmt.Errorf("%w: %s and %s; correct --initial-cluster", ErrTwoClusters, formatID(a), formatID(b))
		}
	}
	if len(infos) == 0 {
		return nil, false, fmt.Errorf("%w: start them first, or correct the URLs: %w", ErrNoPeer, errors.Join(errs...))
	}
	return infos, complete, nil
}

func askOne(ctx context.Context, cfg *Config, url string) (ClusterInfo, error) {
	b, err := cfg.Ask(ctx, url)
	if err != nil {
		return ClusterInfo{}, err
	}
	var info ClusterInfo
	if err := json.Unmarshal(b, &info); err != nil {
		return ClusterInfo{}, err
	}
	if info.Version != clusterInfoVersion {
		return ClusterInfo{}, fmt.Errorf("it answers in format %d, this release reads %d", info.Version, clusterInfoVersion)
	}
	// What is believed here is written into the log's header for good.
	if _, err := membership.NewSet(info.Members, info.Removed); err != nil {
		return ClusterInfo{}, fmt.Errorf("its answer makes no sense: %w", err)
	}
	return info, nil
}

const askAgain = 250 * time.Millisecond

// lookUp finds out who this member is and which cluster it joins. A peer may
// lag behind the one that took 'member add', so a cluster that doesn't know of
// this member is asked once more; peers that don't answer, until the request
// time-out.
func lookUp(ctx context.Context, cfg *Config) (self membership.Member, info ClusterInfo, err error) {
	if len(cfg.InitialCluster[cfg.Name]) == 0 {
		return self, info, fmt.Errorf("member name %q does not stand in --initial-cluster: add it, or correct --name", cfg.Name)
	}
	if len(cfg.InitialCluster) == 1 {
		return self, info, errors.New("--initial-cluster names nobody but this member: to join a cluster, name its members too")
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.RequestTimeout)
	defer cancel()
	retry := time.NewTicker(askAgain)
	defer retry.Stop()
	for asked := 1; ; asked++ {
		infos, complete, err := askPeers(ctx, cfg)
		if err == nil {
			self, info, err = findSelf(cfg, infos)
		}
		final := errors.Is(err, ErrLostData) || errors.Is(err, ErrTwoClusters) || errors.Is(err, ErrNotAdded) && complete && asked > 1
		if err == nil || final || ctx.Err() != nil {
			return self, info, err
		}
		cfg.Logger.Info("cannot join yet; asking the peers again", "reason", strings.ReplaceAll(err.Error(), "\n", "; "))
		select {
		case <-ctx.Done():
			return self, info, err
		case <-retry.C:
		}
	}
}

// findSelf looks for the member that was added with this one's peer URLs. The one
// that was there before it may still be a member to a peer that lags.
func findSelf(cfg *Config, infos []ClusterInfo) (membership.Member, ClusterInfo, error) {
	own := slices.Sorted(slices.Values(cfg.InitialCluster[cfg.Name]))
	var removed []uint64
	for _, info := range infos {
		removed = append(removed, info.Removed...)
	}
	for _, info := range infos {
		for _, m := range info.Members {
			if slices.Contains(removed, m.ID) || !slices.Equal(slices.Sorted(slices.Values(m.PeerURLs)), own) {
				continue
			}
			switch m.Name {
			case "":
				return m, info, nil
			case cfg.Name:
				return m, info, fmt.Errorf("member %s (%q): %w", formatID(m.ID), m.Name, ErrLostData)
			default:
				return m, info, fmt.Errorf("%s belongs to member %s, which runs under the name %q: correct --name or --initial-cluster", strings.Join(own, ","), formatID(m.ID), m.Name)
			}
		}
	}
	return membership.Member{}, ClusterInfo{}, fmt.Errorf("%w (own URLs: %s; known: %s)", ErrNotAdded, strings.Join(own, ","), peerURLs(infos[0].Members))
}

func peerURLs(members []membership.Member) string {
	var all []string
	for _, m := range members {
		all = append(all, m.PeerURLs...)
	}
	return strings.Join(all, ",")
}

// join makes the directory that of a member about to be brought up.
func (r *recovered) join(ctx context.Context, cfg *Config, wcfg wal.Config) error {
	self, info, err := lookUp(ctx, cfg)
	if err != nil {
		return err
	}
	cfg.Logger.Info("joining a cluster", "member-id", formatID(self.ID), "cluster-id", formatID(info.ClusterID), "learner", self.IsLearner)
	log, err := wal.Create(wcfg, wal.Metadata{NodeID: self.ID, ClusterID: info.ClusterID}, wal.Position{})
	if err != nil {
		return err
	}
	r.log, r.id, r.clusterID, r.peers = log, self.ID, info.ClusterID, info.Members
	r.hard = raisedTo(nil, wal.Position{})
	return nil
}

// rejoin asks the peers whether this member, which crashed before it was
// brought up, is still wanted. If none answers, the leader will.
func (r *recovered) rejoin(ctx context.Context, cfg *Config) error {
	infos, _, err := askPeers(ctx, cfg)
	if err != nil {
		cfg.Logger.Info("waiting to be brought up by the leader; no peer could be asked", "reason", strings.ReplaceAll(err.Error(), "\n", "; "))
		return nil
	}
	for _, info := range infos {
		if info.ClusterID != r.clusterID {
			return fmt.Errorf("%w: %s holds member %s of cluster %s, the peers belong to %s", ErrForeignDir, cfg.Dir, formatID(r.id), formatID(r.clusterID), formatID(info.ClusterID))
		}
		if slices.Contains(info.Removed, r.id) {
			return ErrRemoved
		}
		if isMember(info.Members, r.id) {
			r.peers = info.Members
		}
	}
	return nil
}
