package ctl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// askPassword reads a line from the input, without showing it if that is a terminal.
func askPassword(v *invocation) (string, error) {
	fmt.Fprint(v.err, "Password: ")
	if f, ok := v.in.(*os.File); ok {
		show, err := hideInput(int(f.Fd()))
		if err == nil {
			defer fmt.Fprintln(v.err)
			defer show()
		}
	}
	line, err := bufio.NewReader(v.in).ReadString('\n')
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		return "", &failure{
			code: exitError, text: fmt.Sprintf("no password for --user %s: %v", v.g.user, err),
			hint: "give --user NAME:PASSWORD, --password or ETCDCTL_PASSWORD", cause: err,
		}
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// hideInput turns off the echo of a terminal; it fails for anything else.
func hideInput(fd int) (show func(), err error) {
	old, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, setTermios, &quiet); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, setTermios, old) }, nil
}

// isTerminal tells whether a reader or writer is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), getTermios)
	return err == nil
}
