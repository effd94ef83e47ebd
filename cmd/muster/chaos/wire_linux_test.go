package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// wire is the network between hosts that live in a namespace each: every one
// has a TUN device, and this process carries the packets, or doesn't. It can do
// what tc's netem does, without a kernel that has it.
type wire struct {
	ports []*port
	rules [][]atomic.Pointer[rule] // by sender and receiver
	wg    sync.WaitGroup
	rng   struct {
		sync.Mutex
		*rand.Rand
	}
	carried, dropped, delayed, doubled atomic.Int64
}

// port is a host's end of the wire.
type port struct {
	ns  string // name of the namespace; empty for this process's own
	ip  string
	tun *os.File
	// busy is until when its outgoing packets occupy a slow link; under wire.rng's lock.
	busy time.Time
}

// rule is what becomes of packets in one direction between two hosts. No rule: all is well.
type rule struct {
	cut           bool
	loss, double  float64       // probabilities
	delay, jitter time.Duration // jitter is more than that, at random; so packets overtake each other
	rate          int           // bytes a second, 0: any
}

func (r rule) String() string {
	var s []string
	if r.loss > 0 {
		s = append(s, fmt.Sprintf("%.1f%% lost, %.1f%% doubled", 100*r.loss, 100*r.double))
	}
	if r.delay > 0 {
		s = append(s, fmt.Sprintf("%v late, up to %v more", ms(r.delay), ms(r.jitter)))
	}
	if r.rate > 0 {
		s = append(s, fmt.Sprintf("%d KiB/s", r.rate>>10))
	}
	return strings.Join(s, ", ")
}

const (
	mtu = 9000
	// queueTime is how much a slow link takes on before it drops.
	queueTime = time.Second
)

// lay makes a namespace and a device for each host; the first one is this process.
func lay(seed uint64, hosts int) (*wire, error) {
	w := &wire{rules: make([][]atomic.Pointer[rule], hosts)}
	w.rng.Rand = rand.New(rand.NewPCG(seed, 2))
	for i := range hosts {
		w.rules[i] = make([]atomic.Pointer[rule], hosts)
		p := &port{ip: fmt.Sprintf("10.77.0.%d", i+1)}
		if i > 0 {
			p.ns = fmt.Sprintf("m%d", i)
			if err := command("ip", "netns", "add", p.ns); err != nil {
				return w, err
			}
		}
		var err error
		if p.tun, err = openTUN(p.ns); err != nil {
			return w, err
		}
		w.ports = append(w.ports, p)
		for _, args := range []string{"link set lo up", "addr add " + p.ip + "/24 dev tun0", fmt.Sprintf("link set tun0 mtu %d up", mtu)} {
			if err := w.ip(i, args); err != nil {
				return w, err
			}
		}
	}
	for i := range w.ports {
		w.wg.Go(func() { w.carry(i) })
	}
	return w, nil
}

// ip runs the ip command in a host's namespace.
func (w *wire) ip(host int, args string) error {
	all := strings.Fields(args)
	if ns := w.ports[host].ns; ns != "" {
		all = append([]string{"-n", ns}, all...)
	}
	return command("ip", all...)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// openTUN makes tun0 in a namespace: a device belongs to where it was opened.
func openTUN(ns string) (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if ns != "" {
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return nil, err
		}
		defer own.Close()
		other, err := os.Open("/run/netns/" + ns)
		if err != nil {
			return nil, err
		}
		defer other.Close()
		if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, fmt.Errorf("enter namespace %s: %w", ns, err)
		}
		defer func() {
			if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
				runtime.LockOSThread() // this thread is lost, and ends with its goroutine
			}
		}()
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq("tun0")
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make tun0 in namespace %q: %w", ns, err)
	}
	return os.NewFile(uintptr(fd), "tun0"), nil
}

// carry takes one host's packets to the others.
func (w *wire) carry(from int) {
	buf := make([]byte, 1<<16)
	for {
		n, err := w.ports[from].tun.Read(buf)
		if err != nil {
			return // closed
		}
		// IPv4, whose destination stands at 16; hosts are numbered in the last byte.
		if n < 20 || buf[0]>>4 != 4 {
			continue
		}
		to := int(buf[19]) - 1
		if to < 0 || to >= len(w.ports) || to == from {
			continue
		}
		w.forward(from, to, buf[:n])
	}
}

func (w *wire) forward(from, to int, packet []byte) {
	r := w.rules[from][to].Load()
	if r == nil {
		w.carried.Add(1)
		_, _ = w.ports[to].tun.Write(packet) // a device that is down takes none
		return
	}
	copies, delay := w.fate(r, w.ports[from], len(packet))
	switch {
	case copies == 0:
		w.dropped.Add(1)
		return
	case copies > 1:
		w.doubled.Add(1)
	}
	w.delayed.Add(1)
	packet = append([]byte(nil), packet...)
	for i := range copies {
		time.AfterFunc(delay+time.Duration(i)*time.Millisecond, func() {
			_, _ = w.ports[to].tun.Write(packet)
		})
	}
}

// fate decides about one packet.
func (w *wire) fate(r *rule, from *port, size int) (copies int, delay time.Duration) {
	w.rng.Lock()
	defer w.rng.Unlock()
	if r.cut || w.rng.Float64() < r.loss {
		return 0, 0
	}
	delay = r.delay
	if r.jitter > 0 {
		delay += time.Duration(w.rng.Int64N(int64(r.jitter)))
	}
	if r.rate > 0 {
		now := time.Now()
		if from.busy.Before(now) {
			from.busy = now
		}
		wait := from.busy.Sub(now)
		if wait > queueTime {
			return 0, 0
		}
		from.busy = from.busy.Add(time.Duration(size) * time.Second / time.Duration(r.rate))
		delay += wait
	}
	if w.rng.Float64() < r.double {
		return 2, delay
	}
	return 1, delay
}

// set gives every direction from one of the senders to one of the receivers a
// rule, and returns what takes it away again.
func (w *wire) set(r rule, from, to []int) (heal func()) {
	each := func(r *rule) {
		for _, a := range from {
			for _, b := range to {
				if a != b {
					w.rules[a][b].Store(r)
				}
			}
		}
	}
	each(&r)
	return func() { each(nil) }
}

// both is set in both directions.
func (w *wire) both(r rule, a, b []int) (heal func()) {
	there, back := w.set(r, a, b), w.set(r, b, a)
	return func() { there(); back() }
}

func (w *wire) String() string {
	return fmt.Sprintf("%d packets carried as they came, %d late, %d doubled, %d dropped", w.carried.Load(), w.delayed.Load(), w.doubled.Load(), w.dropped.Load())
}

// close takes everything away; the namespaces end with the sandbox.
func (w *wire) close() {
	for _, p := range w.ports {
		if p.tun != nil {
			p.tun.Close()
		}
	}
	w.wg.Wait()
}
