package mvcc

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// The scripts in testdata tell one store's story each: a block is one command, its expected output follows it.
//
//	txn               one write transaction; a line each: put k v [lease=n], del k [end], get k, range k [end]
//	compact rev=n     step [n=n] (all, if no n)     reload     state
//	range [k=] [end=] [rev=] [limit=] [count] [sort=] [desc] [minmod=] ...
//	events from= [to=]      dump      hash [rev=]
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := New()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			switch d.Cmd {
			case "txn":
				tx := s.Begin()
				for line := range strings.Lines(d.Input) {
					fmt.Fprintln(&out, txnLine(t, tx, strings.Fields(line)))
				}
				rev, events := tx.Commit()
				fmt.Fprintf(&out, "revision %d\n", rev)
				for _, e := range events {
					fmt.Fprintln(&out, showEvent(e))
				}
			case "compact":
				var rev int
				d.ScanArgs(t, "rev", &rev)
				if err := s.Compact(int64(rev)); err != nil {
					return err.Error() + "\n"
				}
				fmt.Fprintln(&out, "ok")
			case "step":
				n := 1 << 30
				d.MaybeScanArgs(t, "n", &n)
				fmt.Fprintf(&out, "more %v\n", s.CompactStep(n))
			case "reload":
				s = reload(t, s)
				fallthrough
			case "state":
				stored := 0
				s.h.each(place{}, func(p place, _ uint64, _ entry) bool {
					if !s.h.chunkAt(p.chunk).dead.has(p.i) {
						stored++
					}
					return true
				})
				fmt.Fprintf(&out, "revision %d compacted %d keys %d bytes %d; holds %d versions, %d index items\n",
					s.Rev(), s.CompactRev(), s.Keys(), s.Bytes(), stored, s.items())
			case "range":
				r, err := s.Publish().Range(scanOptions(t, d))
				if err != nil {
					return err.Error() + "\n"
				}
				for _, kv := range r.KVs {
					fmt.Fprintln(&out, show(kv))
				}
				fmt.Fprintf(&out, "count %d more %v revision %d\n", r.Count, r.More, r.Rev)
			case "events":
				from, to := 0, 1<<30
				d.ScanArgs(t, "from", &from)
				d.MaybeScanArgs(t, "to", &to)
				err := s.Publish().Events(int64(from), int64(to), func(e Event) bool {
					fmt.Fprintln(&out, showEvent(e))
					return true
				})
				if err != nil {
					return err.Error() + "\n"
				}
			case "dump":
				s.Publish().Dump(func(main, sub int64, tomb bool, r Record) bool {
					mark := ""
					if tomb {
						mark = " tombstone"
					}
					fmt.Fprintf(&out, "%d.%d %s%s\n", main, sub, show(r), mark)
					return true
				})
			case "hash":
				rev := 0
				d.MaybeScanArgs(t, "rev", &rev)
				hash, compacted, at, err := s.Publish().HashKV(int64(rev))
				if err != nil {
					return err.Error() + "\n"
				}
				fmt.Fprintf(&out, "%08x compacted %d revision %d\n", hash, compacted, at)
			default:
				t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
			}
			return out.String()
		})
	})
}

func show(r Record) string {
	if r == nil {
		return "-"
	}
	kv := r.Decode()
	s := fmt.Sprintf("%s=%s create %d mod %d version %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
	if kv.Lease != 0 {
		s += fmt.Sprintf(" lease %d", kv.Lease)
	}
	return s
}

func showEvent(e Event) string {
	kind := "PUT"
	if e.Delete {
		kind = "DELETE"
	}
	return fmt.Sprintf("event %d %s [%s] prev [%s]", e.Rev, kind, show(e.KV), show(e.Prev))
}

func endArg(args []string) []byte {
	if len(args) < 3 {
		return nil
	}
	return unquote(args[2])
}

// unquote lets scripts write the end that means from-key.
func unquote(s string) []byte { return []byte(strings.ReplaceAll(s, `\0`, "\x00")) }

func txnLine(t *testing.T, tx *Tx, f []string) string {
	switch f[0] {
	case "put":
		var lease int64
		if len(f) > 3 {
			if _, err := fmt.Sscanf(f[3], "lease=%d", &lease); err != nil {
				t.Fatal(err)
			}
		}
		return fmt.Sprintf("put at %d, prev [%s]", tx.Rev(), show(tx.Put([]byte(f[1]), []byte(f[2]), lease)))
	case "del":
		var prev []string
		n := tx.DeleteRange([]byte(f[1]), endArg(f), func(r Record) { prev = append(prev, string(r.Key())) })
		return fmt.Sprintf("deleted %d %v at %d", n, prev, tx.Rev())
	case "get":
		r, _ := tx.Get([]byte(f[1]))
		return "[" + show(r) + "]"
	case "range":
		r, err := tx.Range(RangeOptions{Key: []byte(f[1]), End: endArg(f)})
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("count %d revision %d", r.Count, r.Rev)
	}
	t.Fatalf("unknown operation %q", f)
	return ""
}

func scanOptions(t *testing.T, d *datadriven.TestData) RangeOptions {
	var o RangeOptions
	var key, end, sort string
	d.MaybeScanArgs(t, "k", &key)
	d.MaybeScanArgs(t, "end", &end)
	o.Key, o.End = []byte(key), unquote(end)
	for name, dst := range map[string]*int64{
		"rev": &o.Rev, "limit": &o.Limit, "minmod": &o.MinMod, "maxmod": &o.MaxMod,
		"mincreate": &o.MinCreate, "maxcreate": &o.MaxCreate,
	} {
		d.MaybeScanArgs(t, name, dst)
	}
	o.CountOnly = d.HasArg("count")
	if d.HasArg("desc") {
		o.Order = OrderDescend
	}
	d.MaybeScanArgs(t, "sort", &sort)
	o.SortBy = map[string]SortTarget{
		"": SortKey, "key": SortKey, "version": SortVersion, "create": SortCreate,
		"mod": SortMod, "value": SortValue, "nonsense": 9,
	}[sort]
	return o
}

func TestErrorsCanBeToldApart(t *testing.T) {
	s := New()
	if err := s.Compact(2); !errors.Is(err, ErrFutureRev) {
		t.Errorf("compacting the future: %v", err)
	}
	if err := s.Compact(0); err != nil {
		t.Errorf("the first Compact(0) of a new store must work: %v", err)
	}
	if err := s.Compact(0); !errors.Is(err, ErrCompacted) {
		t.Errorf("the second Compact(0): %v", err)
	}
	v := s.Publish()
	if _, err := v.Range(RangeOptions{Key: []byte("k"), Rev: 2}); !errors.Is(err, ErrFutureRev) {
		t.Errorf("reading the future: %v", err)
	}
	if _, err := v.Range(RangeOptions{Key: []byte("k"), SortBy: 7}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("unknown sort target: %v", err)
	}
	if err := v.RangeEach(RangeOptions{Key: []byte("k"), Order: OrderDescend}, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("descending stream: %v", err)
	}
	if err := v.Events(-1, 5, nil); !errors.Is(err, ErrCompacted) {
		t.Errorf("events before the compacted revision: %v", err)
	}
}
