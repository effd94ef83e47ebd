package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/musterhq/muster/cmd/muster/bench/dnsload"
	"github.com/musterhq/muster/cmd/muster/bench/h2load"
)

func dnsCommand() *cobra.Command {
	var o options
	var types []string
	var server string
	var cfg dnsload.Config
	cmd := &cobra.Command{
		Use:     "dns NAME...",
		Short:   "Ask DNS questions over UDP",
		Example: "  muster bench dns web.svc.muster.internal --type SRV --server 127.0.0.1:8600",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.resolve(cmd.Flags()); err != nil {
				return err
			}
			cfg.Names, cfg.Connections, cfg.Total, cfg.Duration = args, o.conns, o.total, o.duration
			for _, name := range types {
				t, ok := dns.StringToType[strings.ToUpper(name)]
				if !ok {
					return usagef("--type %s: use a record type such as A or SRV", name)
				}
				cfg.Types = append(cfg.Types, t)
			}
			addr, err := resolveServer(cmd, server)
			if err != nil {
				return err
			}
			cfg.Addr, o.addrs = addr, []string{addr}
			return o.ask(cmd, cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&server, "server", "127.0.0.1:8600", "the DNS server")
	f.StringSliceVar(&types, "type", []string{"A"}, "record types, each asked of every name")
	f.IntVar(&o.conns, "conns", 4, "sockets")
	f.IntVar(&cfg.Window, "window", 32, "questions outstanding on a socket")
	f.DurationVar(&cfg.Timeout, "timeout", time.Second, "when an unanswered question counts as lost")
	f.Uint16Var(&cfg.UDPSize, "udp-size", 1232, "EDNS message size to state (0: no EDNS)")
	o.addRunFlags(f, 100000, "questions")
	return cmd
}

// resolveServer is the address of a server given by name or address.
func resolveServer(cmd *cobra.Command, server string) (string, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return "", usagef("--server %q: use host:port", server)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return server, nil
	}
	ips, err := net.DefaultResolver.LookupHost(cmd.Context(), host)
	if err != nil {
		return "", fmt.Errorf("--server %q: %w", server, err)
	}
	return net.JoinHostPort(ips[0], port), nil
}

// ask runs the load under the meter and prints what it found. A lost question is a
// failed one; so is any answer but NOERROR and NXDOMAIN.
func (o *options) ask(cmd *cobra.Command, cfg dnsload.Config) error {
	ctx, stop := interruptible(cmd)
	defer stop()
	m, err := newMeter(o)
	if err != nil {
		return err
	}
	m.begin()
	d, err := dnsload.Run(ctx, cfg)
	m.end()
	if d.Received == 0 && err != nil {
		return err
	}
	r := &h2load.Report{Done: d.Received, Errors: map[string]uint64{}, Bytes: d.Bytes, Elapsed: d.Elapsed, Latency: d.Latency}
	for code, n := range d.Rcodes {
		if code != "NOERROR" && code != "NXDOMAIN" {
			r.Errors[code] = n
			r.Done -= n
		}
	}
	if d.Lost > 0 {
		r.Errors["lost"] = d.Lost
	}
	return errors.Join(err, o.print(ctx, cmd, m.result("dns", r)))
}
