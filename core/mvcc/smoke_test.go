package mvcc

import (
	"fmt"
	"testing"
)

func TestSmoke(t *testing.T) {
	s := New()
	for i := 0; i < 200000; i++ {
		tx := s.Begin()
		tx.Put(fmt.Appendf(nil, "/registry/pods/%08d", (i*7919)%100003), fmt.Appendf(nil, "v%d", i), 0)
		tx.Commit()
		if i%1000 == 0 {
			s.Publish()
		}
	}
	v := s.Publish()
	r, err := v.Range(RangeOptions{Key: []byte("/"), End: []byte("0"), Limit: 10})
	if err != nil || r.Count != 100003 || len(r.KVs) != 10 || !r.More {
		t.Fatal(r, err)
	}
	if err := s.Compact(150000); err != nil {
		t.Fatal(err)
	}
	for s.CompactStep(1000) {
	}
}
