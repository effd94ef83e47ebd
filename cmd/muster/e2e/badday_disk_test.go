package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// segments are a stopped member's log files, oldest first.
func segments(t *testing.T, m *Member) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.Dir, "log", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no log in %s: %v", m.Dir, err)
	}
	return files
}

// patch changes a file's bytes from where text stands.
func patch(t *testing.T, file, text string, change func([]byte)) (offset int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(text))
	if at < 0 {
		t.Fatalf("%s doesn't hold %q", file, text)
	}
	change(b[at:])
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

// killedWithLog leaves a member's log full of acknowledged records that no
// checkpoint holds.
func killedWithLog(t *testing.T) *Member {
	t.Helper()
	m := newMember(t, "m1")
	m.Start(t)
	cl := connect(t, m.Client)
	for i := range 50 {
		put(t, cl, fmt.Sprintf("k%02d", i), fmt.Sprintf("value-%02d", i))
	}
	m.Kill()
	return m
}

func requireValues(t *testing.T, m *Member, n int) {
	t.Helper()
	r := get(t, connect(t, m.Client), "k", clientv3.WithPrefix())
	if len(r.Kvs) != n {
		t.Errorf("%d keys are there, want %d", len(r.Kvs), n)
	}
	for i, kv := range r.Kvs {
		if string(kv.Key) != fmt.Sprintf("k%02d", i) || string(kv.Value) != fmt.Sprintf("value-%02d", i) {
			t.Errorf("key %d is %v", i, kv)
		}
	}
}

func TestADamagedRecordInTheMiddleOfTheLogIsRefusedByFileAndOffset(t *testing.T) {
	m := killedWithLog(t)
	file := segments(t, m)[0]
	at := patch(t, file, "value-20", func(b []byte) { b[0] ^= 1 })
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // and nothing is made worse by trying again
		refused(t, m, 1, filepath.Base(file), "offset", "corrupt", "restore")
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the damaged file was changed (%v)", err)
	}
	patch(t, file, string(before[at:at+8]), func(b []byte) { b[0] ^= 1 })
	m.Start(t)
	requireValues(t, m, 50)
}

func TestATornTailIsRepaired(t *testing.T) {
	for name, tear := range map[string]func([]byte){
		"zeros":   func(b []byte) { clear(b[:4096]) },
		"garbage": func(b []byte) { copy(b, strings.Repeat("garbage!", 512)) },
		"one bit": func(b []byte) { b[3] ^= 0x80 },
	} {
		t.Run(name, func(t *testing.T) {
			m := killedWithLog(t)
			file := segments(t, m)[len(segments(t, m))-1]
			// The last record stands for one that was being written when the power went.
			patch(t, file, "value-49", tear)
			m.Start(t)
			requireValues(t, m, 49)
			if !strings.Contains(m.Log(), "repaired") {
				t.Errorf("the repair isn't in the log:\n%s", tail(m.Log()))
			}
			put(t, connect(t, m.Client), "k49", "value-49")
			m.Kill()
			m.Start(t)
			requireValues(t, m, 50)
		})
	}
	t.Run("cut short", func(t *testing.T) {
		m := killedWithLog(t)
		file := segments(t, m)[len(segments(t, m))-1]
		at := patch(t, file, "value-49", func([]byte) {})
		if err := os.Truncate(file, int64(at)+2); err != nil {
			t.Fatal(err)
		}
		m.Start(t)
		requireValues(t, m, 49)
	})
	t.Run("garbage behind the end", func(t *testing.T) {
		m := killedWithLog(t)
		file := segments(t, m)[len(segments(t, m))-1]
		patch(t, file, "value-49", func(b []byte) { copy(b[4096:], strings.Repeat("garbage!", 1024)) })
		m.Start(t)
		requireValues(t, m, 50)
	})
}
