//go:build linux

package mmsg

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CanReusePort says whether ListenConfig.ReusePort works here.
const CanReusePort = true

func setOptions(fd uintptr, reusePort, pktinfo, v6 bool) error {
	if reusePort {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("set SO_REUSEPORT: %w", err)
		}
	}
	if !pktinfo {
		return nil
	}
	if v6 {
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// mmsghdr is the kernel's struct mmsghdr; Go pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// controlSize holds the larger of the two pktinfo messages.
const controlSize = 64

// Batch is the buffers of one loop: for every slot a datagram received, the
// address it came from, and room for one datagram to send.
type Batch struct {
	conn            *Conn
	size            int
	inSize, outSize int
	in, out         []byte
	names           []unix.RawSockaddrInet6 // large enough for IPv4's too
	control         []byte

	recvHdrs []mmsghdr
	recvIovs []unix.Iovec
	sendHdrs []mmsghdr
	sendIovs []unix.Iovec
	queued   int
	sent     int

	// The closures RawConn wants, made once, and what they report.
	recvFn, sendFn func(fd uintptr) bool
	received       int
	errno          syscall.Errno
}

// NewBatch makes a batch of size slots whose received datagrams hold up to inSize
// bytes and whose sent ones up to outSize.
func (c *Conn) NewBatch(size, inSize, outSize int) *Batch {
	b := &Batch{
		conn: c, size: size, inSize: inSize, outSize: outSize,
		in: make([]byte, size*inSize), out: make([]byte, size*outSize),
		names:    make([]unix.RawSockaddrInet6, size),
		recvHdrs: make([]mmsghdr, size), recvIovs: make([]unix.Iovec, size),
		sendHdrs: make([]mmsghdr, size), sendIovs: make([]unix.Iovec, size),
	}
	if c.wildcard {
		b.control = make([]byte, size*controlSize)
	}
	for i := range size {
		b.recvIovs[i].Base = &b.in[i*inSize]
		b.recvIovs[i].SetLen(inSize)
		b.recvHdrs[i].hdr.Iov = &b.recvIovs[i]
		b.recvHdrs[i].hdr.SetIovlen(1)
	}
	b.recvFn, b.sendFn = b.recvmmsg, b.sendmmsg
	return b
}

// Size is the number of slots.
func (b *Batch) Size() int { return b.size }

// Recv waits for at least one datagram and takes as many as have arrived, up to
// the batch's size. Replies queued and not flushed are forgotten.
func (b *Batch) Recv() (int, error) {
	for i := range b.size {
		h := &b.recvHdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.Namelen = unix.SizeofSockaddrInet6
		h.Flags = 0
		if b.control != nil {
			h.Control = &b.control[i*controlSize]
			h.SetControllen(controlSize)
		}
	}
	b.queued, b.received, b.errno = 0, 0, 0
	if err := b.conn.raw.Read(b.recvFn); err != nil {
		return 0, err
	}
	if b.errno != 0 {
		return 0, b.errno
	}
	return b.received, nil
}

func (b *Batch) recvmmsg(fd uintptr) bool {
	for {
		n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.recvHdrs[0])),
			uintptr(b.size), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			b.received, b.errno = int(n), 0
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			b.errno = e
			return true
		}
	}
}

// Packet is the datagram received in slot i, valid until the next Recv.
func (b *Batch) Packet(i int) []byte {
	n := min(int(b.recvHdrs[i].len), b.inSize)
	return b.in[i*b.inSize : i*b.inSize+n : i*b.inSize+n]
}

// Truncated says whether the datagram in slot i was longer than its buffer.
func (b *Batch) Truncated(i int) bool { return b.recvHdrs[i].hdr.Flags&unix.MSG_TRUNC != 0 }

// From is the address slot i's datagram came from.
func (b *Batch) From(i int) netip.AddrPort {
	sa := &b.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port)
}

// Out is the buffer of slot i's outgoing datagram.
func (b *Batch) Out(i int) []byte { return b.out[i*b.outSize : (i+1)*b.outSize : (i+1)*b.outSize] }

// Queue makes the first n bytes of Out(i) one datagram of the next Flush, to the
// sender of slot i's datagram, or, on a dialled Conn, to its peer.
func (b *Batch) Queue(i, n int) {
	q := b.queued
	b.queued++
	b.sendIovs[q].Base = &b.out[i*b.outSize]
	b.sendIovs[q].SetLen(n)
	from := &b.recvHdrs[i].hdr
	b.sendHdrs[q].hdr = unix.Msghdr{Iov: &b.sendIovs[q]}
	h := &b.sendHdrs[q].hdr
	h.SetIovlen(1)
	if b.conn.dialled {
		return
	}
	h.Name, h.Namelen = from.Name, from.Namelen
	if b.control != nil && from.Controllen > 0 {
		b.forgetInterface(i)
		h.Control, h.Controllen = from.Control, from.Controllen
	}
}

// forgetInterface clears the interface index of a received pktinfo, so that the
// reply takes its source address from it but its way from the routing table. A
// link-local address means nothing without its interface and keeps it.
func (b *Batch) forgetInterface(i int) {
	c := b.control[i*controlSize : (i+1)*controlSize]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
	data := c[unix.CmsgLen(0):]
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO:
		clear(data[0:4])
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO:
		if !netip.AddrFrom16([16]byte(data[:16])).IsLinkLocalUnicast() {
			clear(data[16:20])
		}
	}
}

// Flush sends what was queued. A datagram the kernel refuses (no route, a port of
// zero, a peer's earlier ICMP error) is dropped, as the network might have.
func (b *Batch) Flush() error {
	b.sent = 0
	for b.sent < b.queued {
		b.errno = 0
		if err := b.conn.raw.Write(b.sendFn); err != nil {
			b.queued = 0
			return err
		}
		if b.errno != 0 {
			b.sent++
		}
	}
	b.queued = 0
	return nil
}

func (b *Batch) sendmmsg(fd uintptr) bool {
	for {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.sendHdrs[b.sent])),
			uintptr(b.queued-b.sent), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			b.sent += int(n)
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			b.errno = e
			return true
		}
	}
}
