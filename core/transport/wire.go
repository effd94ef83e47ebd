package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

const (
	magic           = "MUSTERPR"
	protocolVersion = 1
	maxFrame        = 64 << 20
	frameHeader     = 8
	helloSize       = len(magic) + 2 + 24 + 2 // fixed part; URLs and checksum follow
	maxHelloURLs    = 4 << 10
)

// connKind says what a connection carries.
type connKind uint8

const (
	streamConn   connKind = 1
	snapshotConn connKind = 2
	infoConn     connKind = 3 // asks who belongs to the cluster; see Ask
)

// status answers a hello.
type status uint8

const (
	statusOK      status = 0
	statusRefused status = 1
	statusRemoved status = 2 // the sender was removed from the cluster
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errNotHello = errors.New("not a muster peer connection")
	// ErrRefused wraps the other member's reason for not accepting us.
	ErrRefused = errors.New("peer refused the connection")
	// ErrRemoved: the other member knows that we were removed from the cluster.
	ErrRemoved = errors.New("peer says that this member was removed from the cluster")
)

// hello opens a connection. An infoConn's ids are 0: who asks has none yet.
type hello struct {
	kind              connKind
	cluster, from, to uint64
	// urls are where the sender is reached, for a receiver that does not know
	// it yet because it lags behind the changes of the membership.
	urls []string
}

func (h hello) encode() []byte {
	urls := strings.Join(h.urls, ",")
	for fit := len(h.urls) - 1; len(urls) > maxHelloURLs; fit-- {
		urls = strings.Join(h.urls[:fit], ",")
	}
	b := append(make([]byte, 0, helloSize+len(urls)+4), magic...)
	b = append(b, protocolVersion, byte(h.kind))
	b = binary.BigEndian.AppendUint64(b, h.cluster)
	b = binary.BigEndian.AppendUint64(b, h.from)
	b = binary.BigEndian.AppendUint64(b, h.to)
	b = binary.BigEndian.AppendUint16(b, uint16(len(urls)))
	b = append(b, urls...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func readHello(r io.Reader) (hello, error) {
	b := make([]byte, helloSize, helloSize+64)
	if _, err := io.ReadFull(r, b); err != nil {
		return hello{}, fmt.Errorf("%w: %w", errNotHello, err)
	}
	if string(b[:len(magic)]) != magic {
		return hello{}, errNotHello
	}
	p := b[len(magic):]
	if p[0] != protocolVersion {
		return hello{}, fmt.Errorf("peer speaks protocol version %d, this release knows %d: upgrade the older of the two", p[0], protocolVersion)
	}
	h := hello{
		kind:    connKind(p[1]),
		cluster: binary.BigEndian.Uint64(p[2:]),
		from:    binary.BigEndian.Uint64(p[10:]),
		to:      binary.BigEndian.Uint64(p[18:]),
	}
	n := int(binary.BigEndian.Uint16(p[26:]))
	if n > maxHelloURLs {
		return hello{}, fmt.Errorf("%w: %d bytes of URLs", errNotHello, n)
	}
	b = append(b, make([]byte, n+4)...)
	if _, err := io.ReadFull(r, b[helloSize:]); err != nil {
		return hello{}, fmt.Errorf("%w: %w", errNotHello, err)
	}
	if crc32.Checksum(b[:helloSize+n], castagnoli) != binary.BigEndian.Uint32(b[helloSize+n:]) {
		return hello{}, fmt.Errorf("%w: bad checksum", errNotHello)
	}
	if n > 0 {
		h.urls = strings.Split(string(b[helloSize:helloSize+n]), ",")
	}
	return h, nil
}

// writeStatus answers a hello; reason is empty for OK.
func writeStatus(w io.Writer, s status, reason string) error {
	if len(reason) > 255 {
		reason = reason[:255]
	}
	_, err := w.Write(append([]byte{byte(s), byte(len(reason))}, reason...))
	return err
}

func readStatus(r io.Reader) error {
	var b [2]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	reason := make([]byte, b[1])
	if _, err := io.ReadFull(r, reason); err != nil {
		return err
	}
	switch status(b[0]) {
	case statusOK:
		return nil
	case statusRemoved:
		return fmt.Errorf("%w: %s", ErrRemoved, reason)
	default:
		return fmt.Errorf("%w: %s", ErrRefused, reason)
	}
}

func writeFrame(w *bufio.Writer, p []byte) error {
	var h [frameHeader]byte
	binary.BigEndian.PutUint32(h[:4], uint32(len(p)))
	binary.BigEndian.PutUint32(h[4:], crc32.Checksum(p, castagnoli))
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	_, err := w.Write(p)
	return err
}

// readFrame returns the next frame in memory of its own. It grows with what
// arrives, so that a length that lies costs nothing.
func readFrame(r *bufio.Reader) ([]byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(h[:4]))
	if n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes is over the limit of %d", n, maxFrame)
	}
	const step = 1 << 20
	p := make([]byte, 0, min(n, step))
	for len(p) < n {
		at := len(p)
		p = append(p, make([]byte, min(n-at, step))...)
		if _, err := io.ReadFull(r, p[at:]); err != nil {
			return nil, err
		}
	}
	if crc32.Checksum(p, castagnoli) != binary.BigEndian.Uint32(h[4:]) {
		return nil, errors.New("frame has a bad checksum")
	}
	return p, nil
}
