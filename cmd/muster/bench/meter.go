package bench

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/musterhq/muster/cmd/muster/bench/h2load"
	"github.com/musterhq/muster/cmd/muster/bench/process"
)

// meter takes what a load costs: the servers' processor time and memory, and this
// process's time.
type meter struct {
	pids         []int // empty: the servers aren't here
	server, self time.Duration
	err          error
}

// newMeter finds the servers' processes. Servers elsewhere are measured from outside only.
func newMeter(o *options) (*meter, error) {
	m := &meter{pids: o.serverPIDs}
	if len(m.pids) > 0 {
		for _, pid := range m.pids {
			if _, err := process.CPU(pid); err != nil {
				return nil, fmt.Errorf("--server-pid: %w", err)
			}
		}
		return m, nil
	}
	for _, addr := range o.addrs {
		host, service, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		port, err := strconv.Atoi(service)
		if err != nil || !isLocal(host) {
			return &meter{}, nil
		}
		pid, err := process.Listener(port)
		if err != nil {
			return &meter{}, nil // another user's, or nobody: then connecting says so
		}
		if !slices.Contains(m.pids, pid) {
			m.pids = append(m.pids, pid)
		}
	}
	return m, nil
}

// isLocal tells whether a host is this machine's loopback or one of its addresses.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	if host == "localhost" || ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil || ip == nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

func (m *meter) cpu() (server, self time.Duration) {
	for _, pid := range m.pids {
		d, err := process.CPU(pid)
		if err != nil {
			m.err = err
		}
		server += d
	}
	self, _ = process.CPU(os.Getpid()) // where it can't be read, the servers' can't either
	return server, self
}

func (m *meter) begin() { m.server, m.self = m.cpu() }

func (m *meter) end() {
	server, self := m.cpu()
	m.server, m.self = server-m.server, self-m.self
}

// memory is that of all servers.
func (m *meter) memory() (total process.Memory) {
	for _, pid := range m.pids {
		one, err := process.MemoryOf(pid)
		if err != nil {
			m.err = err
		}
		total.Resident += one.Resident
		total.Peak += one.Peak
	}
	return total
}

// result puts a load's report and its costs together.
func (m *meter) result(name string, r *h2load.Report) *result {
	res := &result{
		Load: name, Operations: r.Done, Failed: r.Failed(), Errors: r.Errors, FirstError: r.FirstError(),
		Seconds: r.Elapsed.Seconds(), PerSecond: r.PerSecond(), ReplyBytes: r.Bytes,
	}
	res.Latency.from(&r.Latency)
	m.costs(res)
	return res
}

// costs adds what the servers and the generator took for the result's operations.
func (m *meter) costs(res *result) {
	res.GeneratorMicros = perOperation(m.self, res.Operations)
	if len(m.pids) == 0 {
		return
	}
	mem := m.memory()
	if m.err != nil {
		res.Note = "the server's costs are unknown: " + m.err.Error()
		return
	}
	res.ServerMicros = perOperation(m.server, res.Operations)
	res.ServerPIDs, res.ServerResident, res.ServerPeak = m.pids, mem.Resident, mem.Peak
}

func perOperation(d time.Duration, n uint64) float64 {
	return float64(d) / float64(time.Microsecond) / float64(max(n, 1))
}

// progress writes a line on a terminal and rewrites it.
type progress struct {
	w     io.Writer // nil: nobody looks
	name  string
	o     *options
	start time.Time
}

func newProgress(w io.Writer, name string, o *options) *progress {
	p := &progress{name: name, o: o, start: time.Now()}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

func (p *progress) show(done int64) {
	if p.w == nil {
		return
	}
	took := time.Since(p.start)
	of := p.o.duration.String()
	if p.o.total > 0 {
		of = strconv.Itoa(p.o.total)
	}
	fmt.Fprintf(p.w, "\r%s: %d of %s, %v, %.0f/s \x1b[K", p.name, done, of, took.Round(time.Second), float64(done)/took.Seconds())
}

func (p *progress) clear() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
