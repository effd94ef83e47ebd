package registrar

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// isSpec reports whether an address must be found out on this machine.
func isSpec(s string) bool {
	return s == "" || strings.HasPrefix(s, "iface:") || strings.HasPrefix(s, "cidr:")
}

func checkAddrSpec(s string) error {
	switch kind, arg, _ := strings.Cut(s, ":"); {
	case kind == "cloud":
		return fmt.Errorf("%q: asking a cloud for the address is not supported yet", s)
	case kind == "iface" && (arg == "" || strings.ContainsAny(arg, "/ ")):
		return fmt.Errorf("%q names no interface", s)
	case kind == "cidr":
		if _, err := netip.ParsePrefix(arg); err != nil {
			return fmt.Errorf("%q is not a prefix", s)
		}
	}
	return nil
}

// resolver finds out this machine's addresses.
type resolver struct {
	endpoints []string
	// addrs lists an interface's addresses, all interfaces' if the name is empty; outbound is the local address used
	// to reach a remote one. Both are replaced in tests.
	addrs    func(iface string) ([]netip.Prefix, error)
	outbound func(remote string) (netip.Addr, error)
}

func newResolver(endpoints []string) *resolver {
	return &resolver{endpoints: endpoints, addrs: systemAddrs, outbound: systemOutbound}
}

// ErrNoAddress: this machine has no address of the kind asked for, maybe not yet.
var ErrNoAddress = errors.New("no address found")

// resolve turns a specification into an address, IPv4 before IPv6, never a link-local one.
func (r *resolver) resolve(spec string) (string, error) {
	kind, arg, _ := strings.Cut(spec, ":")
	switch kind {
	case "iface":
		return r.pick(spec, arg, func(netip.Addr) bool { return true })
	case "cidr":
		p, err := netip.ParsePrefix(arg)
		if err != nil {
			return "", err
		}
		return r.pick(spec, "", p.Contains)
	default:
		var errs []error
		for _, e := range r.endpoints {
			ip, err := r.outbound(hostOf(e))
			if err == nil {
				return ip.String(), nil
			}
			errs = append(errs, err)
		}
		return "", fmt.Errorf("%w: node.addr is not set and no store endpoint can be routed to (%w): set node.addr", ErrNoAddress, errors.Join(errs...))
	}
}

func (r *resolver) pick(spec, iface string, ok func(netip.Addr) bool) (string, error) {
	prefixes, err := r.addrs(iface)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrNoAddress, spec, err)
	}
	var six string
	for _, p := range prefixes {
		ip := p.Addr().Unmap()
		if !ok(ip) || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
			continue
		}
		if ip.Is4() {
			return ip.String(), nil
		}
		if six == "" {
			six = ip.String()
		}
	}
	if six == "" {
		return "", fmt.Errorf("%w: %s", ErrNoAddress, spec)
	}
	return six, nil
}

// hostOf is the host of a store endpoint; a unix socket's is this host.
func hostOf(endpoint string) string {
	if u, err := url.Parse(endpoint); err == nil && u.Scheme != "" && u.Host != "" {
		if strings.HasPrefix(u.Scheme, "unix") {
			return "127.0.0.1"
		}
		return u.Hostname()
	}
	if strings.HasPrefix(endpoint, "unix") {
		return "127.0.0.1"
	}
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return endpoint
	}
	return host
}

func systemAddrs(iface string) ([]netip.Prefix, error) {
	var addrs []net.Addr
	var err error
	if iface == "" {
		addrs, err = net.InterfaceAddrs()
	} else {
		var i *net.Interface
		if i, err = net.InterfaceByName(iface); err == nil {
			addrs, err = i.Addrs()
		}
	}
	var out []netip.Prefix
	for _, a := range addrs {
		if p, perr := netip.ParsePrefix(a.String()); perr == nil {
			out = append(out, p)
		}
	}
	return out, err
}

// systemOutbound asks the routing table; connecting a UDP socket sends nothing.
func systemOutbound(host string) (netip.Addr, error) {
	d := net.Dialer{Timeout: 2 * time.Second} // for the name's look-up
	conn, err := d.Dial("udp", net.JoinHostPort(host, "9"))
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	ap, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return ap.Addr().Unmap(), err
}
