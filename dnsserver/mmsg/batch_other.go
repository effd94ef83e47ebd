//go:build !linux

package mmsg

import (
	"net/netip"
)

// CanReusePort says whether ListenConfig.ReusePort works here.
const CanReusePort = false

func setOptions(uintptr, bool, bool, bool) error { return nil }

// Batch is the buffers of one loop: here of one datagram, whatever was asked.
type Batch struct {
	conn    *Conn
	in, out []byte
	n       int
	from    netip.AddrPort
	queued  int
}

// NewBatch makes a batch; this system moves one datagram at a time.
func (c *Conn) NewBatch(_, inSize, outSize int) *Batch {
	return &Batch{conn: c, in: make([]byte, inSize+1), out: make([]byte, outSize)}
}

// Size is the number of slots.
func (b *Batch) Size() int { return 1 }

// Recv waits for one datagram.
func (b *Batch) Recv() (int, error) {
	b.queued = 0
	n, from, err := b.conn.udp.ReadFromUDPAddrPort(b.in)
	if err != nil {
		return 0, err
	}
	b.n, b.from = n, from
	return 1, nil
}

// Packet is the datagram received, valid until the next Recv.
func (b *Batch) Packet(int) []byte { return b.in[:min(b.n, len(b.in)-1)] }

// Truncated says whether the datagram was longer than its buffer.
func (b *Batch) Truncated(int) bool { return b.n == len(b.in) }

// From is the address the datagram came from.
func (b *Batch) From(int) netip.AddrPort { return b.from }

// Out is the buffer of the outgoing datagram.
func (b *Batch) Out(int) []byte { return b.out }

// Queue makes the first n bytes of Out the datagram of the next Flush.
func (b *Batch) Queue(_, n int) { b.queued = n }

// Flush sends what was queued; a datagram the system refuses is dropped.
func (b *Batch) Flush() error {
	if b.queued == 0 {
		return nil
	}
	if b.conn.dialled {
		_, _ = b.conn.udp.Write(b.out[:b.queued])
	} else {
		_, _ = b.conn.udp.WriteToUDPAddrPort(b.out[:b.queued], b.from)
	}
	b.queued = 0
	return nil
}
