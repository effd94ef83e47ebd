package transport

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitSilence makes the kernel give a connection up when what was sent on it
// has not been acknowledged for d. Unlike a write's time limit, that counts from
// when the bytes went out: small writes to a peer that is cut off succeed for
// hours, as long as the socket has room for them.
func limitSilence(conn net.Conn, d time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil // on the same machine, or a test's
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	if err == nil {
		err = failed
	}
	return err
}
