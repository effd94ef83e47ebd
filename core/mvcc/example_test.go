package mvcc_test

import (
	"fmt"

	"github.com/musterhq/muster/core/mvcc"
)

func Example() {
	s := mvcc.New()
	tx := s.Begin()
	tx.Put([]byte("jobs/1"), []byte("queued"), 0)
	tx.Commit()
	old := s.Publish()

	tx = s.Begin()
	tx.Put([]byte("jobs/1"), []byte("done"), 0)
	tx.Put([]byte("jobs/2"), []byte("queued"), 0)
	rev, events := tx.Commit()
	now := s.Publish()

	before, _ := old.Get([]byte("jobs/1"))
	r, _ := now.Range(mvcc.RangeOptions{Key: []byte("jobs/"), End: []byte("jobs0"), Limit: 1})
	fmt.Printf("revision %d, %d events; was %s, is %s, count %d, more %v\n",
		rev, len(events), before.Value(), r.KVs[0].Value(), r.Count, r.More)
	// Output: revision 3, 2 events; was queued, is done, count 2, more true
}

func ExampleStore_Compact() {
	s := mvcc.New()
	for _, v := range []string{"a", "b", "c"} {
		tx := s.Begin()
		tx.Put([]byte("k"), []byte(v), 0)
		tx.Commit()
	}
	fmt.Println(s.Compact(3))
	for s.CompactStep(1000) { // between batches of writes
	}
	v := s.Publish()
	r, err := v.Range(mvcc.RangeOptions{Key: []byte("k"), Rev: 3})
	fmt.Printf("%s %v\n", r.KVs[0].Value(), err)
	_, err = v.Range(mvcc.RangeOptions{Key: []byte("k"), Rev: 2})
	fmt.Println(err)
	// Output:
	// <nil>
	// b <nil>
	// mvcc: required revision has been compacted: 2, compacted at 3
}

func ExampleView_Events() {
	s := mvcc.New()
	tx := s.Begin()
	tx.Put([]byte("k"), []byte("v"), 0)
	tx.Commit()
	tx = s.Begin()
	tx.DeleteRange([]byte("k"), nil, nil)
	tx.Commit()
	s.Publish().Events(2, 3, func(e mvcc.Event) bool {
		fmt.Printf("%d delete=%v %s prev=%q\n", e.Rev, e.Delete, e.KV.Key(), e.Prev.Value())
		return true
	})
	// Output:
	// 2 delete=false k prev=""
	// 3 delete=true k prev="v"
}

func ExampleLoader() {
	s := mvcc.New()
	tx := s.Begin()
	tx.Put([]byte("k"), []byte("v"), 0)
	tx.Commit()
	v := s.Publish()

	l := mvcc.NewLoader()
	v.Dump(func(main, sub int64, tombstone bool, r mvcc.Record) bool {
		return l.Add(main, sub, tombstone, r) == nil
	})
	restored, err := l.Finish(v.Rev(), v.CompactRev())
	fmt.Println(restored.Rev(), restored.Keys(), restored.Bytes() == s.Bytes(), err)
	// Output: 2 1 true <nil>
}
