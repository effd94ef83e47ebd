package registrar

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLeaseFile starts a registrar over any lease file. Either it is refused, or
// what it remembers is this owner's and whole: a lease, if it names one, that can
// be taken over; and it is read again as it was saved.
func FuzzLeaseFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "lease")
	f.Add([]byte(`{"lease":"7b","epoch":5,"owner":"h1"}`))
	f.Add([]byte(`{"epoch":18446744073709551615,"owner":"h1"}` + "\n"))
	f.Add([]byte(`{"lease":"7b","epoch":5,"owner":"h2"}`))
	f.Add([]byte(`{"lease":"ffffffffffffffff","epoch":1,"owner":"h1"}`))
	f.Add([]byte(`{"lease":123,"owner":"h1"}`))
	f.Add([]byte(`{"lease":"7b","ep`))
	f.Add([]byte(`null`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, m, err := openLeaseFile(path, "h1")
		if err != nil {
			if !errors.Is(err, ErrLeaseFile) {
				t.Fatalf("got %v, want ErrLeaseFile", err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			again, _, err := openLeaseFile(path, "h1") // nobody holds its lock any more
			if err != nil {
				t.Fatal(err)
			}
			again.close()
			return
		}
		defer file.close()
		if m != (memory{}) && m.Owner != "h1" {
			t.Fatalf("%s: took over what is another's: %+v", content, m)
		}
		if m.Lease != "" && m.id() == 0 {
			t.Fatalf("%s: lease %q would be left to expire", content, m.Lease)
		}
		if err := file.save(m); err != nil {
			t.Fatal(err)
		}
		file.close()
		file, again, err := openLeaseFile(path, m.Owner)
		if err != nil || again != m {
			t.Fatalf("saved %+v, read %+v, %v", m, again, err)
		}
		file.close()
	})
}
