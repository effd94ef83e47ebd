package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/simbug"
	"github.com/musterhq/muster/core/transport"
	"github.com/musterhq/muster/core/wal"
)

// A member that joins a running cluster begins with an empty log and no state
// at all, at index 0: the leader brings it up with a checkpoint. All it must
// know beforehand is who it is, and it writes that into its log's header before
// it says a word; so whatever moment it crashes at, it starts again as the same
// member or has never been one.
//
// That must be true: were it to take an id that another host had before, it would
// vote a second time, with an empty log, and what the two made sure of together
// would be lost. A list that names it proves little, as one that lags names
// members that were removed long ago. So a joiner asks until nothing can have
// been changed behind the back of those that answered; see vouchers.

// ClusterInfo is what a member tells one that is about to join.
type ClusterInfo struct {
	Version   int    `json:"version"`
	ClusterID uint64 `json:"cluster"`
	Self      uint64 `json:"self"`  // the member that tells it
	Index     uint64 `json:"index"` // of the entry after which it holds
	// Settled: the log of this member held no later change of the members.
	Settled bool                `json:"settled"`
	Members []membership.Member `json:"members"`
	Removed []uint64            `json:"removed"`
	// Ran: members that told their names later in the log of this member.
	Ran []uint64 `json:"ran,omitempty"`
}

const clusterInfoVersion = 2

// Refusals of a join.
var (
	ErrNotAdded    = errors.New("no member with this one's peer URLs has been added to the cluster: run 'member add' first, or correct --initial-cluster")
	ErrLostData    = errors.New("this member has already run, and its data directory is gone: remove it from the cluster, delete what is left and add it again")
	ErrOtherName   = errors.New("correct --name or --initial-cluster")
	ErrNoPeer      = errors.New("none of the peers in --initial-cluster could be asked about the cluster")
	ErrTooFewPeers = errors.New("too few members could be asked whether this one still belongs to the cluster: start the others")
	ErrTwoClusters = errors.New("the peers in --initial-cluster belong to different clusters")
)

func askPeer(ctx context.Context, url string) ([]byte, error) { return transport.Ask(ctx, url, nil) }

// askPeers asks the other members in --initial-cluster, and those that their
// answers name, once each. complete: all in --initial-cluster answered. An answer
// that knows no members comes from one that has just joined itself.
func askPeers(ctx context.Context, cfg *Config) (infos []ClusterInfo, complete bool, _ error) {
	var flags []peerToAsk
	for _, name := range slices.Sorted(maps.Keys(cfg.InitialCluster)) {
		if name != cfg.Name {
			flags = append(flags, peerToAsk{name, cfg.InitialCluster[name]})
		}
	}
	infos, errs := askAll(ctx, cfg, flags)
	complete = len(infos) == len(flags)
	if infos = knowing(infos); len(infos) > 0 {
		var unasked []peerToAsk
		for _, m := range newest(infos).Members {
			asked := func(p peerToAsk) bool {
				return slices.ContainsFunc(p.urls, func(u string) bool { return slices.Contains(m.PeerURLs, u) })
			}
			if !isSelf(cfg, m) && !slices.ContainsFunc(flags, asked) {
				unasked = append(unasked, peerToAsk{formatID(m.ID), m.PeerURLs})
			}
		}
		more, _ := askAll(ctx, cfg, unasked)
		infos = append(infos, knowing(more)...)
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

type peerToAsk struct {
	name string
	urls []string
}

// askAll asks peers at the same time and gives the answers in their order.
func askAll(ctx context.Context, cfg *Config, peers []peerToAsk) (infos []ClusterInfo, errs []error) {
	type answer struct {
		info ClusterInfo
		errs []error
		ok   bool
	}
	answers := make([]answer, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() {
			a := &answers[i]
			for _, url := range p.urls {
				info, err := askOne(ctx, cfg, url)
				if err == nil {
					a.info, a.ok = info, true
					return
				}
				a.errs = append(a.errs, fmt.Errorf("%s at %s: %w", p.name, url, err))
			}
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a.ok {
			infos = append(infos, a.info)
		}
		errs = append(errs, a.errs...)
	}
	return infos, errs
}

func knowing(infos []ClusterInfo) []ClusterInfo {
	return slices.DeleteFunc(infos, func(i ClusterInfo) bool { return len(i.Members) == 0 })
}

// newest is what the member tells that has applied most.
func newest(infos []ClusterInfo) ClusterInfo {
	return slices.MaxFunc(infos, func(a, b ClusterInfo) int { return cmp.Compare(a.Index, b.Index) })
}

func isSelf(cfg *Config, m membership.Member) bool {
	return slices.Equal(slices.Sorted(slices.Values(m.PeerURLs)), slices.Sorted(slices.Values(cfg.InitialCluster[cfg.Name])))
}

// vouchers counts the members that vouch for the newest list that was heard of,
// and those it takes: so many that one of them has in its log the next change of
// the members, should it have been committed, by a majority in which self or
// another host of that id took part. Then it tells a newer list, or that it is not
// settled. Likewise one of them has in its log the name that self told when it
// began to run, if it ever did; see ranHere.
//
// Of two voters the other one counts even if it is not settled: nothing was ever
// committed without it, and the change may be waiting for just this member to start.
func vouchers(infos []ClusterInfo, self uint64) (have, need int) {
	voters := map[uint64]bool{} // and whether they vouch
	for _, m := range newest(infos).Members {
		if !m.IsLearner {
			voters[m.ID] = false
		}
	}
	two := len(voters) == 2
	for _, info := range infos {
		if vouched, ok := voters[info.Self]; ok && !vouched && (info.Settled || two) && info.Self != self {
			voters[info.Self] = true
			have++
		}
	}
	return have, (len(voters) + 1) / 2
}

// ranHere reports whether somebody knows that this member has run. Its list may not
// show it yet: it is that of a checkpoint until the log is replayed.
func ranHere(infos []ClusterInfo, id uint64) bool {
	return slices.ContainsFunc(infos, func(i ClusterInfo) bool { return slices.Contains(i.Ran, id) })
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
		final := errors.Is(err, ErrLostData) || errors.Is(err, ErrOtherName) || errors.Is(err, ErrTwoClusters) || errors.Is(err, ErrNotAdded) && complete && asked > 1
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

// findSelf looks for the member that was added with this one's peer URLs.
func findSelf(cfg *Config, infos []ClusterInfo) (membership.Member, ClusterInfo, error) {
	info := newest(infos)
	own := strings.Join(slices.Sorted(slices.Values(cfg.InitialCluster[cfg.Name])), ",")
	i := slices.IndexFunc(info.Members, func(m membership.Member) bool { return isSelf(cfg, m) })
	if i < 0 {
		return membership.Member{}, info, fmt.Errorf("%w (own URLs: %s; known: %s)", ErrNotAdded, own, peerURLs(info.Members))
	}
	m := info.Members[i]
	if ranHere(infos, m.ID) && m.Name == "" {
		return m, info, fmt.Errorf("member %s: %w", formatID(m.ID), ErrLostData)
	}
	if have, need := vouchers(infos, m.ID); have < need && !simbug.On(simbug.JoinUnvouched) {
		return m, info, fmt.Errorf("member %s: %w (%d of the %d that it takes answered)", formatID(m.ID), ErrTooFewPeers, have, need)
	}
	switch m.Name {
	case "":
		return m, info, nil
	case cfg.Name:
		return m, info, fmt.Errorf("member %s (%q): %w", formatID(m.ID), m.Name, ErrLostData)
	}
	return m, info, fmt.Errorf("%s belongs to member %s, which runs under the name %q: %w", own, formatID(m.ID), m.Name, ErrOtherName)
}

func peerURLs(members []membership.Member) string {
	var all []string
	for _, m := range members {
		all = append(all, m.PeerURLs...)
	}
	return strings.Join(all, ",")
}

// foundingQuestion is how long a founding member waits for the others to say that
// it has been there before.
const foundingQuestion = time.Second

// ranBefore refuses a first start, with an empty directory, of a member that the
// other founding members know to have run: it would vote a second time. When a
// cluster is founded nobody knows that, and most don't answer yet.
func ranBefore(ctx context.Context, cfg *Config, self, clusterID uint64) error {
	if len(cfg.InitialCluster) == 1 {
		return nil
	}
	defer transport.TurnAway(cfg.PeerListeners)() // or they would wait for each other
	ctx, cancel := context.WithTimeout(ctx, foundingQuestion)
	defer cancel()
	infos, _, err := askPeers(ctx, cfg)
	switch {
	case errors.Is(err, ErrTwoClusters):
		return err
	case err != nil:
		return nil //nolint:nilerr // nobody knows better
	}
	for _, info := range infos {
		if info.ClusterID != clusterID {
			continue
		}
		named := slices.ContainsFunc(info.Members, func(m membership.Member) bool { return m.ID == self && m.Name != "" })
		if named || slices.Contains(info.Removed, self) || slices.Contains(info.Ran, self) {
			return fmt.Errorf("member %s (%q): %w", formatID(self), cfg.Name, ErrLostData)
		}
	}
	return nil
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
