package checkpoint_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/vfs"
)

type pair struct{ k, v []byte }

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// each yields pairs through buffers that are overwritten afterwards, as the
// contract allows.
func each(pairs []pair) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		var k, v []byte
		for _, p := range pairs {
			k, v = append(k[:0], p.k...), append(v[:0], p.v...)
			if !yield(k, v) {
				return
			}
			for i := range k {
				k[i] = 0xee
			}
		}
	}
}

func buckets(content map[string][]pair) []checkpoint.Bucket {
	var out []checkpoint.Bucket
	for name, pairs := range content {
		out = append(out, checkpoint.Bucket{Name: name, Pairs: each(pairs)})
	}
	return out
}

// records makes n pairs as the key bucket has them.
func records(n, size int) []pair {
	out := make([]pair, n)
	for i := range out {
		out[i] = pair{checkpoint.AppendRevisionKey(nil, int64(i+2), 0, i%7 == 6), bytes.Repeat([]byte{byte(i)}, size)}
	}
	return out
}

// randomPairs makes pairs of random sizes with rising keys.
func randomPairs(rng *rand.Rand, n, maxKey, maxValue int) []pair {
	seen := make(map[string]bool)
	var out []pair
	for range n {
		k := make([]byte, 1+rng.IntN(maxKey))
		for i := range k {
			k[i] = byte(rng.Uint32())
		}
		if seen[string(k)] {
			continue
		}
		seen[string(k)] = true
		out = append(out, pair{k, make([]byte, rng.IntN(maxValue+1))})
	}
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i].k, out[j].k) < 0 })
	return out
}

func write(t testing.TB, content map[string][]pair) []byte {
	t.Helper()
	plan, err := checkpoint.NewPlan(buckets(content))
	must(t, err)
	var file bytes.Buffer
	w, err := plan.Write(&file)
	must(t, err)
	if int64(file.Len()) != plan.Size() || w.Size != plan.Size() {
		t.Fatalf("wrote %d bytes, reported %d, planned %d", file.Len(), w.Size, plan.Size())
	}
	b := file.Bytes()
	if sum := sha256.Sum256(b[:len(b)-32]); !bytes.Equal(sum[:], b[len(b)-32:]) || sum != w.Digest {
		t.Fatal("the file doesn't end in the SHA-256 of all before")
	}
	return b
}

// boltContent opens a database with the bbolt library, checks it and reads it all.
func boltContent(t testing.TB, name string, readOnly bool) map[string][]pair {
	t.Helper()
	db, err := bolt.Open(name, 0o600, &bolt.Options{ReadOnly: readOnly, NoSync: true})
	must(t, err)
	defer func() { must(t, db.Close()) }()
	content := make(map[string][]pair)
	must(t, db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt's check: %v", err)
		}
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			content[string(name)] = nil
			return b.ForEach(func(k, v []byte) error {
				content[string(name)] = append(content[string(name)], pair{bytes.Clone(k), bytes.Clone(v)})
				return nil
			})
		})
	}))
	return content
}

func readContent(r *checkpoint.Reader) (map[string][]pair, error) {
	content := make(map[string][]pair)
	for _, name := range r.Buckets() {
		content[name] = nil
		err := r.Each(name, func(k, v []byte) error {
			content[name] = append(content[name], pair{bytes.Clone(k), bytes.Clone(v)})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("bucket %q: %w", name, err)
		}
	}
	return content, nil
}

func same(t testing.TB, what string, got, want map[string][]pair) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %d buckets, want %d", what, len(got), len(want))
	}
	for name := range want {
		equal := slices.EqualFunc(got[name], want[name], func(a, b pair) bool {
			return bytes.Equal(a.k, b.k) && bytes.Equal(a.v, b.v)
		})
		if _, ok := got[name]; !ok || !equal {
			t.Fatalf("%s: bucket %q differs: got %d pairs, want %d", what, name, len(got[name]), len(want[name]))
		}
	}
}

func TestBboltAcceptsWhatWeWriteAndReadsTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	long := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	tests := map[string]map[string][]pair{
		"nothing at all":       {},
		"an empty bucket":      {"key": nil},
		"an inline bucket":     {"meta": {{[]byte("a"), []byte("1")}, {[]byte("b"), nil}}},
		"one page":             {"key": records(20, 100)},
		"two levels":           {"key": records(1000, 100), "meta": records(1, 8)},
		"three levels":         {"key": records(30000, 200), "lease": records(10, 10), "alarm": nil},
		"overflowing values":   {"key": {{[]byte("a"), long(4096, 1)}, {[]byte("b"), long(1<<20, 2)}, {[]byte("c"), long(3, 3)}, {[]byte("d"), long(9000, 4)}}},
		"a single huge value":  {"key": {{[]byte("a"), long(100000, 1)}}},
		"the largest keys":     {"key": {{long(32768, 1), nil}, {long(32768, 2), long(5, 5)}, {long(32768, 3), nil}, {long(32768, 4), nil}, {long(32768, 5), nil}}},
		"random small":         {"a": randomPairs(rng, 3000, 30, 300), "b": randomPairs(rng, 5, 3, 3), "c": randomPairs(rng, 300, 5, 0)},
		"random large":         {"a": randomPairs(rng, 200, 3000, 20000), "b": randomPairs(rng, 300, 2000, 10)},
		"page borders, leaves": borders(),
		"many buckets":         many(120),
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			file := write(t, content)
			r, err := checkpoint.NewReader(bytes.NewReader(file), int64(len(file)))
			must(t, err)
			got, err := readContent(r)
			must(t, err)
			same(t, "our reader", got, content)

			path := filepath.Join(t.TempDir(), "db")
			must(t, os.WriteFile(path, file, 0o600)) // digest included, as etcdutl gets it
			same(t, "bbolt, as a snapshot", boltContent(t, path, true), content)
			must(t, os.WriteFile(path, file[:len(file)-32], 0o600))
			same(t, "bbolt, as a database", boltContent(t, path, false), content)
		})
	}
}

// borders makes buckets whose only page is just below, at and above the sizes
// where a bucket stops being inline and a page is full.
func borders() map[string][]pair {
	content := make(map[string][]pair)
	for _, size := range []int{1024, 4096} {
		for d := -3; d <= 3; d++ {
			content[fmt.Sprint(size, d)] = []pair{{[]byte("a"), nil}, {[]byte("k"), make([]byte, size+d-16-2*16-2)}}
		}
	}
	return content
}

func many(n int) map[string][]pair {
	content := make(map[string][]pair)
	for i := range n {
		content[strings.Repeat("b", i%50)+fmt.Sprint(i)] = records(i%40, 20)
	}
	return content
}

func TestBboltCanGoOnWritingIntoWhatWeWrote(t *testing.T) {
	content := map[string][]pair{"key": records(5000, 100), "meta": records(3, 8), "empty": nil}
	file := write(t, content)
	path := filepath.Join(t.TempDir(), "db")
	must(t, os.WriteFile(path, file[:len(file)-32], 0o600))
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	must(t, err)
	rng := rand.New(rand.NewPCG(3, 3))
	for range 30 {
		must(t, db.Update(func(tx *bolt.Tx) error {
			for range 200 {
				b := tx.Bucket([]byte([]string{"key", "meta", "empty"}[rng.IntN(3)]))
				k := checkpoint.AppendRevisionKey(nil, rng.Int64N(6000), 0, false)
				if rng.IntN(2) == 0 {
					if err := b.Delete(k); err != nil {
						return err
					}
				} else if err := b.Put(k, make([]byte, rng.IntN(500))); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	must(t, db.Close())
	want := boltContent(t, path, true)
	r, err := checkpoint.Open(vfs.OS(), path)
	must(t, err)
	if r.HasDigest() {
		t.Error("a plain database was taken for a snapshot")
	}
	got, err := readContent(r)
	must(t, err, r.Close())
	same(t, "worn file", got, want)
}

func TestReaderReadsWornFilesOfTheBboltLibrary(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 5))
			path := filepath.Join(t.TempDir(), "db")
			page := []int{4096, 1024, 16384}[seed%3]
			db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, PageSize: page, NoFreelistSync: seed%2 == 1})
			must(t, err)
			names := []string{"key", "meta", "lease"}
			for range 40 {
				must(t, db.Update(func(tx *bolt.Tx) error {
					for range 150 {
						b, err := tx.CreateBucketIfNotExists([]byte(names[rng.IntN(len(names))]))
						if err != nil {
							return err
						}
						k := fmt.Appendf(nil, "%0*d", 1+rng.IntN(30), rng.IntN(3000))
						if rng.IntN(5) < 2 {
							c := b.Cursor()
							if k, _ := c.Seek(k); k != nil {
								if err := c.Delete(); err != nil {
									return err
								}
							}
						} else if err := b.Put(k, make([]byte, rng.IntN(1<<rng.IntN(14)))); err != nil {
							return err
						}
					}
					return nil
				}))
			}
			must(t, db.Close())
			want := boltContent(t, path, true)
			r, err := checkpoint.Open(vfs.OS(), path)
			must(t, err)
			got, err := readContent(r)
			must(t, err, r.Close())
			same(t, "worn file", got, want)

			// With the newest meta page gone bbolt falls back to the other one; so do we.
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt(make([]byte, 100), 0)
			must(t, err, f.Close())
			_, err = checkpoint.Open(vfs.OS(), path)
			must(t, err)
		})
	}
}

func TestWriterRefusesWhatBboltCouldNotHold(t *testing.T) {
	pairs := func(p ...pair) map[string][]pair { return map[string][]pair{"b": p} }
	for name, tt := range map[string]struct {
		content map[string][]pair
		want    error
	}{
		"falling keys":    {pairs(pair{[]byte("b"), nil}, pair{[]byte("a"), nil}), checkpoint.ErrOrder},
		"a key twice":     {pairs(pair{[]byte("a"), nil}, pair{[]byte("a"), nil}), checkpoint.ErrOrder},
		"an empty key":    {pairs(pair{nil, nil}), checkpoint.ErrSize},
		"a key too large": {pairs(pair{make([]byte, 32769), nil}), checkpoint.ErrSize},
		"a nameless one":  {map[string][]pair{"": nil}, checkpoint.ErrSize},
	} {
		if _, err := checkpoint.Write(&bytes.Buffer{}, buckets(tt.content)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	twice := []checkpoint.Bucket{{Name: "a"}, {Name: "a"}}
	if _, err := checkpoint.Write(&bytes.Buffer{}, twice); !errors.Is(err, checkpoint.ErrOrder) {
		t.Errorf("two buckets of one name: got %v, want ErrOrder", err)
	}
	pass := 0
	changing := []checkpoint.Bucket{{Name: "a", Pairs: func(yield func(k, v []byte) bool) {
		pass++
		each(records(1000*pass, 100))(yield)
	}}}
	if _, err := checkpoint.Write(&bytes.Buffer{}, changing); !errors.Is(err, checkpoint.ErrChanged) {
		t.Errorf("a source that changes: got %v, want ErrChanged", err)
	}
}

func TestGetFindsOneValue(t *testing.T) {
	file := write(t, map[string][]pair{"meta": {{[]byte("a"), []byte("1")}, {[]byte("c"), []byte("3")}}})
	r, err := checkpoint.NewReader(bytes.NewReader(file), int64(len(file)))
	must(t, err)
	for key, want := range map[string]string{"a": "1", "b": "<none>", "c": "3", "d": "<none>"} {
		v, ok, err := r.Get("meta", key)
		must(t, err)
		if got := string(v); ok && got != want || !ok && want != "<none>" {
			t.Errorf("%s: got %q, %v, want %q", key, got, ok, want)
		}
	}
	if _, ok, err := r.Get("absent", "a"); ok || err != nil || r.Has("absent") || !r.Has("meta") {
		t.Errorf("a bucket that isn't there: got %v, %v", ok, err)
	}
}

func TestEveryFlippedByteIsFoundByTheDigest(t *testing.T) {
	mem := vfs.NewMem()
	d, err := checkpoint.OpenDir(checkpoint.Config{FS: mem, Dir: "/c"})
	must(t, err)
	_, err = d.Save(context.Background(), 1, 1, buckets(map[string][]pair{"key": records(100, 50)}), nil)
	must(t, err)
	name := "/c/0000000000000001-0000000000000001.db"
	info, err := mem.Stat(name)
	must(t, err)
	for off := int64(0); off < info.Size; off += 13 {
		rot := vfs.NewFault(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpRead {
				return &vfs.BitRot{Off: off, Mask: 0x10}
			}
			return nil
		})
		if _, err := checkpoint.Open(rot, name); !errors.Is(err, checkpoint.ErrCorrupt) {
			t.Fatalf("byte %d flipped: got %v, want ErrCorrupt", off, err)
		}
	}
}
