package mmsg

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Conn is one UDP socket.
type Conn struct {
	udp *net.UDPConn
	raw syscall.RawConn
	// wildcard is set when replies must name the address they leave from.
	wildcard bool
	// dialled sockets send to their peer and need no address.
	dialled bool
}

// ListenConfig says how a server's socket is opened.
type ListenConfig struct {
	// ReusePort lets several sockets of this process share the address, the kernel
	// spreading clients over them. Refused where CanReusePort is false.
	ReusePort bool
	// ReadBuffer is the kernel's receive buffer in bytes; 0 keeps the system's
	// default. The system may grant less.
	ReadBuffer int
}

// Listen opens a socket bound to addr.
func Listen(ctx context.Context, addr netip.AddrPort, cfg ListenConfig) (*Conn, error) {
	if cfg.ReusePort && !CanReusePort {
		return nil, fmt.Errorf("mmsg: this system does not share a UDP port among sockets: open one socket")
	}
	wildcard := addr.Addr().IsUnspecified()
	v6 := addr.Addr().Is6()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		if err := c.Control(func(fd uintptr) { serr = setOptions(fd, cfg.ReusePort, wildcard, v6) }); err != nil {
			return err
		}
		return serr
	}}
	network := "udp4"
	if v6 {
		network = "udp6"
		if wildcard {
			network = "udp" // [::] takes IPv4 as well, as net.Listen does for TCP
		}
	}
	pc, err := lc.ListenPacket(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	udp := pc.(*net.UDPConn)
	if cfg.ReadBuffer > 0 {
		// The kernel caps this at net.core.rmem_max; less head-room is no failure.
		_ = udp.SetReadBuffer(cfg.ReadBuffer)
	}
	return newConn(udp, wildcard, false)
}

// Dial opens a socket connected to addr: queued datagrams go there and only its
// datagrams are received.
func Dial(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", addr.String())
	if err != nil {
		return nil, err
	}
	return newConn(c.(*net.UDPConn), false, true)
}

func newConn(udp *net.UDPConn, wildcard, dialled bool) (*Conn, error) {
	raw, err := udp.SyscallConn()
	if err != nil {
		_ = udp.Close()
		return nil, err
	}
	return &Conn{udp: udp, raw: raw, wildcard: wildcard, dialled: dialled}, nil
}

// LocalAddr is the address the socket is bound to.
func (c *Conn) LocalAddr() netip.AddrPort {
	return c.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// SetReadDeadline bounds the wait of Recv; the zero time waits for ever.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.udp.SetReadDeadline(t) }

// Close closes the socket and unblocks its users.
func (c *Conn) Close() error { return c.udp.Close() }
