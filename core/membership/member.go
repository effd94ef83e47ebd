package membership

import (
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Member is one node of the cluster. Its slices are shared and never written to.
type Member struct {
	ID         uint64
	Name       string // empty until the member has started for the first time
	PeerURLs   []string
	ClientURLs []string
	IsLearner  bool
}

// Started reports whether the member has ever announced itself.
func (m Member) Started() bool { return m.Name != "" }

// storedMember is a member as etcd keeps it in its "members" bucket.
type storedMember struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// MarshalJSON gives the form of etcd's "members" bucket.
func (m Member) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedMember{
		ID: m.ID, PeerURLs: m.PeerURLs, IsLearner: m.IsLearner, Name: m.Name, ClientURLs: m.ClientURLs,
	})
}

// UnmarshalJSON reads what MarshalJSON or etcd wrote.
func (m *Member) UnmarshalJSON(b []byte) error {
	var s storedMember
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*m = Member{ID: s.ID, Name: s.Name, PeerURLs: s.PeerURLs, ClientURLs: s.ClientURLs, IsLearner: s.IsLearner}
	return nil
}

// MemberID derives a member's id from its peer URLs and the cluster token, and
// for a member added to a running cluster from the time (unix seconds) as well;
// founding members pass 0, so that each of them computes the same ids for all.
func MemberID(peerURLs []string, token string, unixSeconds int64) uint64 {
	urls := slices.Sorted(slices.Values(peerURLs))
	s := strings.Join(urls, "") + token
	if unixSeconds != 0 {
		s += strconv.FormatInt(unixSeconds, 10)
	}
	sum := sha1.Sum([]byte(s))
	return binary.BigEndian.Uint64(sum[:8])
}

// ClusterID derives the cluster's id from the ids of its founding members.
func ClusterID(memberIDs []uint64) uint64 {
	ids := slices.Sorted(slices.Values(memberIDs))
	b := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	sum := sha1.Sum(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// FormatID writes an id the way etcd prints it and keys its buckets: lower-case
// hexadecimal without leading zeros.
func FormatID(id uint64) string { return strconv.FormatUint(id, 16) }

// ParseID reads what FormatID wrote.
func ParseID(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("member id %q is not hexadecimal: %w", s, err)
	}
	return id, nil
}

func compareID(m Member, id uint64) int { return cmp.Compare(m.ID, id) }
