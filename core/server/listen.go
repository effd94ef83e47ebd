package server

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// listeners are all of a member's, bound before anything else happens: a taken
// port is found out while there is nothing to undo.
type listeners struct {
	client, peer, metrics []net.Listener
}

func bind(c *Config) (*listeners, error) {
	l := &listeners{}
	for _, b := range []struct {
		flag string
		urls []string
		to   *[]net.Listener
	}{
		{"listen-peer-urls", c.ListenPeerURLs, &l.peer},
		{"listen-client-urls", c.ListenClientURLs, &l.client},
		{"listen-metrics-urls", c.ListenMetricsURLs, &l.metrics},
	} {
		for _, u := range b.urls {
			lis, err := listen(u)
			if err != nil {
				l.close()
				return nil, fmt.Errorf("--%s: %w", b.flag, err)
			}
			*b.to = append(*b.to, lis)
		}
	}
	return l, nil
}

// listen opens one URL that Validate has let through.
func listen(s string) (net.Listener, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "unix" {
		return listenUnix(u.Host + u.Path)
	}
	lis, err := net.Listen("tcp", u.Host)
	return lis, explain(u.Host, err)
}

// listenUnix takes over the socket file of a process that is gone.
func listenUnix(path string) (net.Listener, error) {
	lis, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, dialErr := net.Dial("unix", path); dialErr == nil {
			c.Close()
			return nil, explain(path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		lis, err = net.Listen("unix", path)
	}
	return lis, explain(path, err)
}

// explain says what to do about the two things that usually go wrong.
func explain(addr string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("cannot listen on %s: another process has it (address already in use): stop that one or choose another port", addr)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("cannot listen on %s: permission denied: choose a port above 1023 or grant CAP_NET_BIND_SERVICE", addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("cannot listen on %s: this machine has no such address", addr)
	}
	return fmt.Errorf("cannot listen on %s: %w", addr, err)
}

func (l *listeners) close() {
	for _, group := range [][]net.Listener{l.client, l.peer, l.metrics} {
		for _, lis := range group {
			lis.Close()
		}
	}
}

// bound puts the ports that the system chose in place of port 0, in the
// listening URLs and in what is advertised by default.
func bound(urls []string, ls []net.Listener) []string {
	out := make([]string, len(urls))
	for i, s := range urls {
		out[i] = s
		if strings.HasPrefix(s, "http://") && strings.HasSuffix(strings.TrimSuffix(s, "/"), ":0") {
			out[i] = "http://" + ls[i].Addr().String()
		}
	}
	return out
}
