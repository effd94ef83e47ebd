package ctl

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func printed(t *testing.T, format string, r result) string {
	t.Helper()
	var b bytes.Buffer
	p, err := newPrinter(format, &b, false)
	if err == nil {
		err = p.Accepts(r)
	}
	if err == nil {
		err = p.Print(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The tables are etcdctl 3.7.3's.
func TestTablesAreEtcdctls(t *testing.T) {
	for _, c := range []struct {
		r    result
		want string
	}{
		{membersResult{&pb.MemberListResponse{Members: []*pb.Member{{
			ID: 0x2bc21162cab8eb93, Name: "default", PeerURLs: []string{"http://127.0.0.1:24791"}, ClientURLs: []string{"http://127.0.0.1:24790"},
		}}}}, `
┌──────────────────┬─────────┬─────────┬────────────────────────┬────────────────────────┬────────────┐
│        ID        │ STATUS  │  NAME   │       PEER ADDRS       │      CLIENT ADDRS      │ IS LEARNER │
├──────────────────┼─────────┼─────────┼────────────────────────┼────────────────────────┼────────────┤
│ 2bc21162cab8eb93 │ started │ default │ http://127.0.0.1:24791 │ http://127.0.0.1:24790 │      false │
└──────────────────┴─────────┴─────────┴────────────────────────┴────────────────────────┴────────────┘
`},
		{healthResult{
			{Endpoint: "127.0.0.1:24790", Health: true, Took: "5.808099ms"},
			{Endpoint: "127.0.0.1:1", Took: "1.000490472s", Error: "context deadline exceeded"},
		}, `
┌─────────────────┬────────┬──────────────┬───────────────────────────┐
│    ENDPOINT     │ HEALTH │     TOOK     │           ERROR           │
├─────────────────┼────────┼──────────────┼───────────────────────────┤
│ 127.0.0.1:24790 │   true │   5.808099ms │                           │
│     127.0.0.1:1 │  false │ 1.000490472s │ context deadline exceeded │
└─────────────────┴────────┴──────────────┴───────────────────────────┘
`},
		{statusResult{{"127.0.0.1:24790", &pb.StatusResponse{
			Header: &pb.ResponseHeader{MemberId: 0x2bc21162cab8eb93}, Leader: 0x2bc21162cab8eb93, Version: "3.7.3", StorageVersion: "3.7.0",
			DbSize: 60, DbSizeInUse: 60, DbSizeQuota: 2 << 30, RaftTerm: 2, RaftIndex: 5, RaftAppliedIndex: 5,
		}}}, `
┌─────────────────┬──────────────────┬─────────┬─────────────────┬─────────┬────────┬───────────────────────┬────────┬───────────┬────────────┬───────────┬────────────┬────────────────────┬────────┬──────────────────────────┬───────────────────┐
│    ENDPOINT     │        ID        │ VERSION │ STORAGE VERSION │ DB SIZE │ IN USE │ PERCENTAGE NOT IN USE │ QUOTA  │ IS LEADER │ IS LEARNER │ RAFT TERM │ RAFT INDEX │ RAFT APPLIED INDEX │ ERRORS │ DOWNGRADE TARGET VERSION │ DOWNGRADE ENABLED │
├─────────────────┼──────────────────┼─────────┼─────────────────┼─────────┼────────┼───────────────────────┼────────┼───────────┼────────────┼───────────┼────────────┼────────────────────┼────────┼──────────────────────────┼───────────────────┤
│ 127.0.0.1:24790 │ 2bc21162cab8eb93 │   3.7.3 │           3.7.0 │    60 B │   60 B │                    0% │ 2.1 GB │      true │      false │         2 │          5 │                  5 │        │                          │             false │
└─────────────────┴──────────────────┴─────────┴─────────────────┴─────────┴────────┴───────────────────────┴────────┴───────────┴────────────┴───────────┴────────────┴────────────────────┴────────┴──────────────────────────┴───────────────────┘
`},
		{statusResult{}, `
┌──────────┬────┬─────────┬─────────────────┬─────────┬────────┬───────────────────────┬───────┬───────────┬────────────┬───────────┬────────────┬────────────────────┬────────┬──────────────────────────┬───────────────────┐
│ ENDPOINT │ ID │ VERSION │ STORAGE VERSION │ DB SIZE │ IN USE │ PERCENTAGE NOT IN USE │ QUOTA │ IS LEADER │ IS LEARNER │ RAFT TERM │ RAFT INDEX │ RAFT APPLIED INDEX │ ERRORS │ DOWNGRADE TARGET VERSION │ DOWNGRADE ENABLED │
└──────────┴────┴─────────┴─────────────────┴─────────┴────────┴───────────────────────┴───────┴───────────┴────────────┴───────────┴────────────┴────────────────────┴────────┴──────────────────────────┴───────────────────┘
`},
	} {
		if got := printed(t, "table", c.r); got != c.want[1:] {
			t.Errorf("got\n%swant%s", got, c.want)
		}
	}
	if got := printed(t, "json", statusResult(nil)); got != "null\n" {
		t.Errorf("no status at all is %q as json, etcdctl says null", got)
	}
}

func TestProtobufIsTheWholeMessage(t *testing.T) {
	sent := &pb.LeaseGrantResponse{Header: &pb.ResponseHeader{Revision: 7}, ID: 5, TTL: 60}
	got := &pb.LeaseGrantResponse{}
	if err := proto.Unmarshal([]byte(printed(t, "protobuf", grantResult{sent})), got); err != nil || !proto.Equal(got, sent) {
		t.Errorf("read back as %v, %v", got, err)
	}
}

// The sizes are what etcdctl's library makes of them.
func TestSizesAreForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 9: "9 B", 10: "10 B", 999: "999 B", 1000: "1.0 kB", 1234: "1.2 kB", 9949: "9.9 kB", 9950: "10 kB", 20480: "20 kB",
		82854982: "83 MB", 2 << 30: "2.1 GB", 8 << 30: "8.6 GB",
	} {
		if got := bytesize(n); got != want {
			t.Errorf("bytesize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestLinesAreSplitIntoWords(t *testing.T) {
	for line, want := range map[string][]string{
		``:                               nil,
		`  put  key1   value `:           {"put", "key1", "value"},
		`put key1 "overwrote \"it\"\n"`:  {"put", "key1", "overwrote \"it\"\n"},
		`put 'a "b" \n' x`:               {"put", `a "b" \n`, "x"},
		`get --sort-by="KEY" a`:          {"get", `--sort-by="KEY"`, "a"},
		"watch\tfoo -- echo \"\"\r":      {"watch", "foo", "--", "echo", ""},
		"put `raw` is a word of its own": {"put", "`raw`", "is", "a", "word", "of", "its", "own"},
	} {
		if got, err := splitWords(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v; want %q", line, got, err, want)
		}
	}
	for _, line := range []string{`put "a`, `put 'a`, `put "\q"`} {
		if got, err := splitWords(line); err == nil {
			t.Errorf("%s: got %q, want an error", line, got)
		}
	}
}

func TestPrefixesEndBeforeTheNextKey(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "\xff\xff": "\x00", "a/": "a0"} {
		if got := string(prefixEnd([]byte(prefix))); got != want {
			t.Errorf("prefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
}

// FuzzTransactionLines checks that a comparison or a request that is read is a whole one, and that a comparison written
// out again is read as the same.
func FuzzTransactionLines(f *testing.F) {
	f.Add(`mod("k") > "0"`)
	f.Add(`put k "v" --lease 1f`)
	f.Add(`value("a")`)
	f.Add(`lease("\xff") != "-1f"`)
	f.Fuzz(func(t *testing.T, line string) {
		if c, err := parseCompare(line); err == nil {
			again, err := parseCompare(compareLine(t, c))
			if err != nil || !proto.Equal(c, again) {
				t.Errorf("%q makes %v, which is written as %s and read as %v, %v", line, c, compareLine(t, c), again, err)
			}
		}
		if r, err := parseRequest(line); err == nil && r.GetRequest() == nil {
			t.Errorf("%q makes an empty request", line)
		}
	})
}

func compareLine(t *testing.T, c *pb.Compare) string {
	t.Helper()
	var target, operand string
	switch u := c.GetTargetUnion().(type) {
	case *pb.Compare_Version:
		target, operand = "ver", strconv.FormatInt(u.Version, 10)
	case *pb.Compare_CreateRevision:
		target, operand = "c", strconv.FormatInt(u.CreateRevision, 10)
	case *pb.Compare_ModRevision:
		target, operand = "m", strconv.FormatInt(u.ModRevision, 10)
	case *pb.Compare_Lease:
		target, operand = "lease", strconv.FormatInt(u.Lease, 16)
	case *pb.Compare_Value:
		target, operand = "val", string(u.Value)
	default:
		t.Fatalf("%v has no operand", c)
	}
	result := map[pb.Compare_CompareResult]string{pb.Compare_EQUAL: "=", pb.Compare_NOT_EQUAL: "!=", pb.Compare_LESS: "<", pb.Compare_GREATER: ">"}
	return fmt.Sprintf("%s(%q) %s %q", target, c.Key, result[c.Result], operand)
}

// FuzzWords checks that the words of a line, each in quotes, are read as the same again.
func FuzzWords(f *testing.F) {
	f.Add(`put 'a "b" \n' "\x00\u00e9" x`)
	f.Add("watch\tfoo -- echo \"\"\r")
	f.Add(`get --sort-by="KEY" a"b`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := splitWords(line)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, strconv.Quote(w))
		}
		again, err := splitWords(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(again, words) {
			t.Errorf("%q has the words %q, which in quotes are %q, %v", line, words, again, err)
		}
	})
}
