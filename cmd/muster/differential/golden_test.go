package differential

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
)

// goldenFile is what an etcd 3.7.3 answered once. Its lines are
//
//	program <name>
//	step <method> <stream> <mangle> <metadata> <request in base64>
//	= <answer to the step>
//	~ <what a watcher was told>
//	ruins
//
// and it holds the requests themselves, so that it outlives the generator it came from.
const goldenFile = "testdata/etcd-3.7.3.txt"

// recorded is a program and what etcd made of it.
type recorded struct {
	Program
	etcd transcript
}

// goldenTrees is how many random programs are looked at beside those written by hand.
const goldenTrees = 100

// goldenPrograms are quick and small.
func goldenPrograms() (all []Program) {
	var last []Program
	for _, p := range append(scripts(), trees()...) {
		size, waits := 0, false
		for _, s := range p.Steps {
			if s.Request != nil {
				size = max(size, proto.Size(s.Request))
			}
			waits = waits || s.Method == pauseMethod
		}
		switch {
		case size > 2000 || waits || p.mayExpire():
		case p.Ruins:
			last = append(last, p)
		default:
			all = append(all, p)
		}
	}
	return append(all, last...)
}

func trees() (all []Program) {
	for n := range uint64(goldenTrees) {
		all = append(all, generate(7, n))
	}
	return all
}

func TestRecordWhatEtcdAnswers(t *testing.T) {
	if opts.record == "" {
		t.Skip("recorded by make differential-record alone")
	}
	etcd, err := startServer(t.Context(), "etcd", []string{opts.etcd}, scratch(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, etcd)
	var b bytes.Buffer
	for _, p := range goldenPrograms() {
		tr, err := etcd.run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if err := write(&b, recorded{p, tr}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(opts.record, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMusterAnswersAsEtcdDidWhenItWasRecorded(t *testing.T) {
	all := readGolden(t)
	ours, err := startServer(t.Context(), "muster", musterCommand(t), scratch(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, ours)
	excused := map[string]int{}
	for _, r := range all {
		tr, err := ours.run(t.Context(), r.Program)
		if err != nil {
			t.Fatalf("%s: %v\n%s", r.Name, err, ours.logTail())
		}
		if diff := compare(r.Program, r.etcd, tr, excused); diff != "" {
			t.Fatalf("%s (once etcd's answers are doubted, make differential compares with a living one):\n%s\n%v", r.Name, diff, r.Program)
		}
	}
	if len(all) < goldenTrees/2 || len(excused) < 5 {
		t.Errorf("only %d programs with differences %v: the record is not whole", len(all), excused)
	}
}

func stop(t *testing.T, s *server) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

func write(b *bytes.Buffer, r recorded) error {
	fmt.Fprintf(b, "program %s\n", r.Name)
	if r.Ruins {
		fmt.Fprintln(b, "ruins")
	}
	for i, s := range r.Steps {
		request, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.Request)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "step\t%s\t%d\t%d\t%s=%s\t%s\n", s.Method, s.Stream, s.Mangle, s.Meta[0], s.Meta[1], base64.StdEncoding.EncodeToString(request))
		fmt.Fprintf(b, "= %s\n", r.etcd.answers[i].text)
	}
	for _, line := range r.etcd.watched {
		fmt.Fprintf(b, "~ %s\n", line)
	}
	return nil
}

func readGolden(t *testing.T) (all []recorded) {
	t.Helper()
	f, err := os.Open(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		if err := readLine(&all, lines.Text()); err != nil {
			t.Fatalf("%s:%d: %v", goldenFile, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func readLine(all *[]recorded, line string) error {
	if name, ok := strings.CutPrefix(line, "program "); ok {
		*all = append(*all, recorded{Program: Program{Name: name}})
		return nil
	}
	if len(*all) == 0 {
		return fmt.Errorf("%q before any program", line)
	}
	r := &(*all)[len(*all)-1]
	switch {
	case line == "ruins":
		r.Ruins = true
	case strings.HasPrefix(line, "= "):
		r.etcd.answers = append(r.etcd.answers, answer{text: line[2:]})
	case strings.HasPrefix(line, "~ "):
		r.etcd.watched = append(r.etcd.watched, line[2:])
	default:
		s, err := parseStep(strings.Split(line, "\t"))
		if err != nil {
			return err
		}
		r.Steps = append(r.Steps, s)
	}
	return nil
}

func parseStep(f []string) (s Step, err error) {
	if len(f) != 6 || f[0] != "step" {
		return s, fmt.Errorf("%q is no step", f)
	}
	s.Method = f[1]
	if s.Stream, err = strconv.Atoi(f[2]); err != nil {
		return s, err
	}
	if s.Mangle, err = strconv.ParseUint(f[3], 10, 64); err != nil {
		return s, err
	}
	s.Meta[0], s.Meta[1], _ = strings.Cut(f[4], "=")
	request, err := base64.StdEncoding.DecodeString(f[5])
	if err != nil {
		return s, err
	}
	s.Request = requestOf(s.Method)
	return s, proto.Unmarshal(request, s.Request)
}

// requestOf is an empty request of a method.
func requestOf(full string) proto.Message {
	if md := descriptorOf(full); md != nil {
		if t, err := protoregistry.GlobalTypes.FindMessageByName(md.Input().FullName()); err == nil {
			return t.New().Interface()
		}
	}
	return &emptypb.Empty{}
}

// descriptorOf looks a method up, nil if nobody declared it.
func descriptorOf(full string) protoreflect.MethodDescriptor {
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	if sd, ok := d.(protoreflect.ServiceDescriptor); ok {
		return sd.Methods().ByName(protoreflect.Name(name))
	}
	return nil
}
