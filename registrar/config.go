package registrar

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
)

// ErrConfig is what every error of a configuration wraps.
var ErrConfig = errors.New("invalid registrar configuration")

// The defaults of Config.
const (
	DefaultTTL          = 30 * time.Second
	MinTTL              = 3 * time.Second
	DefaultDrainDelay   = 10 * time.Second
	DefaultDrainTimeout = 30 * time.Second
	DefaultEndpoint     = "127.0.0.1:2379"
	maxServices         = 1000
)

// Config is the registrar's configuration, in the file's own shape.
type Config struct {
	Store    StoreConfig     `yaml:"store"`
	Node     NodeConfig      `yaml:"node"`
	Lease    LeaseConfig     `yaml:"lease"`
	Drain    DrainConfig     `yaml:"drain"`
	API      APIConfig       `yaml:"api"`
	Services []ServiceConfig `yaml:"services"`
}

// StoreConfig says how to reach the cluster.
type StoreConfig struct {
	Endpoints []string  `yaml:"endpoints"`
	TLS       TLSConfig `yaml:"tls"`
	// User is a user's name; the password is the first line of PasswordFile.
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
}

// TLSConfig names PEM files.
type TLSConfig struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// NodeConfig says where the services run.
type NodeConfig struct {
	// Name is the node's name, the host name's first label if empty. It is also the owner of the registrations.
	Name string `yaml:"name"`
	// Addr is the address of services that don't give their own: an IP address, a host name, iface:NAME,
	// cidr:PREFIX, or empty for the address from which the store is reached.
	Addr     string         `yaml:"addr"`
	Locality LocalityConfig `yaml:"locality"`
}

// LocalityConfig says where the node stands.
type LocalityConfig struct {
	Region string            `yaml:"region"`
	Zone   string            `yaml:"zone"`
	Labels map[string]string `yaml:"labels"`
}

// LeaseConfig is about the registrar's one lease.
type LeaseConfig struct {
	// TTL is how long registrations outlive a registrar that died.
	TTL time.Duration `yaml:"ttl"`
	// File, if set, remembers the lease across a crash, so that the next registrar adopts it.
	File string `yaml:"file"`
}

// DrainConfig is about leaving.
type DrainConfig struct {
	// Delay is between taking the instances out of traffic and deregistering them: at least the DNS TTL and a bit. Nil
	// takes the default; 0s doesn't wait.
	Delay *time.Duration `yaml:"delay"`
	// Timeout bounds each of: writing the drain, stopping the command, deregistering.
	Timeout time.Duration `yaml:"timeout"`
}

// APIConfig says where services feed their ttl checks.
type APIConfig struct {
	// Unix is the path of a socket, HTTP a loopback host:port. Both may be empty: no API.
	Unix string `yaml:"unix"`
	HTTP string `yaml:"http"`
}

// ServiceConfig is one instance of one service on this node.
type ServiceConfig struct {
	Name string `yaml:"name"`
	NS   string `yaml:"ns"`
	// ID is the instance's id, <node>-<name> if empty.
	ID         string            `yaml:"id"`
	Version    string            `yaml:"version"`
	Addr       string            `yaml:"addr"`
	Ports      map[string]Port   `yaml:"ports"`
	Tags       []string          `yaml:"tags"`
	Meta       map[string]string `yaml:"meta"`
	Weight     uint32            `yaml:"weight"`
	WarnWeight uint32            `yaml:"warn_weight"`
	Priority   uint32            `yaml:"priority"`
	Checks     []CheckConfig     `yaml:"checks"`
}

// Port is a port with its protocol; in YAML a number, or "53/udp".
type Port struct {
	Number uint32
	Proto  string
}

// ParsePort reads "8080" or "53/udp".
func ParsePort(s string) (Port, error) {
	num, proto, ok := strings.Cut(s, "/")
	n, err := strconv.ParseUint(num, 10, 16)
	if err != nil || n == 0 || ok && proto == "" {
		return Port{}, fmt.Errorf("%w: port %q: write a number of 1 to 65535, or NUMBER/udp", ErrConfig, s)
	}
	if !ok {
		proto = discovery.DefaultProto
	}
	return Port{uint32(n), proto}, nil
}

// UnmarshalYAML reads a number or a string.
func (p *Port) UnmarshalYAML(unmarshal func(any) error) error {
	var s string
	if err := unmarshal(&s); err != nil {
		return err
	}
	v, err := ParsePort(s)
	*p = v
	return err
}

// MarshalYAML writes the form that UnmarshalYAML reads.
func (p Port) MarshalYAML() (any, error) { return fmt.Sprintf("%d/%s", p.Number, p.Proto), nil }

// CheckConfig is one check: exactly one of HTTP, TCP and TTL.
type CheckConfig struct {
	// HTTP is a URL, or a path on the service's own address and its port "http", else its only port.
	HTTP string `yaml:"http"`
	// TCP is host:port, or the name of one of the service's ports.
	TCP string `yaml:"tcp"`
	// TTL is how long a report is believed.
	TTL time.Duration `yaml:"ttl"`
	// ID names the check, its kind if empty.
	ID       string        `yaml:"id"`
	Interval time.Duration `yaml:"interval"`
	Timeout  time.Duration `yaml:"timeout"`
	Rise     int           `yaml:"rise"`
	Fall     int           `yaml:"fall"`
}

// Normalize fills in the defaults. The node's name comes from the host's.
func (c *Config) Normalize() error {
	if len(c.Store.Endpoints) == 0 {
		c.Store.Endpoints = []string{DefaultEndpoint}
	}
	if c.Node.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("%w: node.name: the host's name is unknown (%w): set it", ErrConfig, err)
		}
		first, _, _ := strings.Cut(host, ".")
		c.Node.Name = strings.ToLower(first)
	}
	if c.Lease.TTL == 0 {
		c.Lease.TTL = DefaultTTL
	}
	if c.Drain.Delay == nil {
		d := DefaultDrainDelay
		c.Drain.Delay = &d
	}
	if c.Drain.Timeout == 0 {
		c.Drain.Timeout = DefaultDrainTimeout
	}
	for i := range c.Services {
		s := &c.Services[i]
		if s.NS == "" {
			s.NS = discovery.DefaultNamespace
		}
		if s.ID == "" {
			s.ID = c.Node.Name + "-" + s.Name
		}
	}
	return nil
}

// Validate checks a normalized configuration. All problems are reported.
func (c *Config) Validate() error {
	var errs []error
	add := func(field, problem, remedy string) {
		errs = append(errs, fmt.Errorf("%w: %w", ErrConfig, &discovery.FieldError{Field: field, Problem: problem, Remedy: remedy}))
	}
	if c.Lease.TTL < MinTTL || c.Lease.TTL > time.Hour {
		add("lease.ttl", fmt.Sprintf("%v is out of range", c.Lease.TTL), fmt.Sprintf("use %v to 1h", MinTTL))
	}
	if *c.Drain.Delay < 0 || *c.Drain.Delay > 10*time.Minute {
		add("drain.delay", fmt.Sprintf("%v is out of range", *c.Drain.Delay), "use 0s to 10m")
	}
	if c.Drain.Timeout < time.Second || c.Drain.Timeout > time.Hour {
		add("drain.timeout", fmt.Sprintf("%v is out of range", c.Drain.Timeout), "use 1s to 1h")
	}
	if (c.Store.TLS.Cert == "") != (c.Store.TLS.Key == "") {
		add("store.tls", "has only one of cert and key", "give both or none")
	}
	if (c.Store.User == "") != (c.Store.PasswordFile == "") {
		add("store.user", "user and password_file belong together", "give both or none")
	}
	if err := checkLoopback(c.API.HTTP); err != nil {
		errs = append(errs, err)
	}
	if err := checkAddrSpec(c.Node.Addr); err != nil {
		add("node.addr", err.Error(), "write an IP address, a host name, iface:NAME or cidr:PREFIX")
	}
	if len(c.Services) > maxServices {
		add("services", fmt.Sprintf("has %d entries", len(c.Services)), fmt.Sprintf("use at most %d", maxServices))
	}
	// An address is needed to check the rest; which one doesn't matter.
	if _, err := c.definitions(anyAddress); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func anyAddress(string) (string, error) { return "192.0.2.1", nil }

// checkLoopback refuses an address of the API that other machines could reach.
func checkLoopback(addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	ip, iperr := netip.ParseAddr(host)
	if err != nil || host != "localhost" && (iperr != nil || !ip.IsLoopback()) {
		return fmt.Errorf("%w: %w", ErrConfig, &discovery.FieldError{
			Field: "api.http", Problem: fmt.Sprintf("%q is not a loopback address", addr), Remedy: "write 127.0.0.1:PORT, or use api.unix",
		})
	}
	return nil
}

// definition is one instance to keep registered, with its checks by id.
type definition struct {
	instance discovery.Instance
	checks   map[string]discovery.Check
	// unresolved: its address isn't known yet. It is not registered, but not deregistered either.
	unresolved bool
}

// definitions makes what is to be registered of the configuration. resolve turns an address specification (empty, iface:
// or cidr:) into an address.
func (c *Config) definitions(resolve func(spec string) (string, error)) (map[discovery.Ref]definition, error) {
	out := make(map[discovery.Ref]definition, len(c.Services))
	var errs []error
	for i := range c.Services {
		s := &c.Services[i]
		where := fmt.Sprintf("services[%d] (%s)", i, s.Name)
		d, err := c.definition(s, resolve)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: %w", ErrConfig, where, err))
			continue
		}
		ref := d.instance.Ref()
		if _, ok := out[ref]; ok {
			errs = append(errs, fmt.Errorf("%w: %s: id: %q is given twice in service %s/%s: give one of them another id", ErrConfig, where, ref.ID, ref.NS, ref.Svc))
			continue
		}
		out[ref] = d
	}
	return out, errors.Join(errs...)
}

func (c *Config) definition(s *ServiceConfig, resolve func(string) (string, error)) (definition, error) {
	spec := s.Addr
	if spec == "" {
		spec = c.Node.Addr
	} else if err := checkAddrSpec(spec); err != nil {
		return definition{}, fmt.Errorf("addr: %w", err)
	}
	addr := spec
	if isSpec(spec) {
		var err error
		if addr, err = resolve(spec); err != nil {
			return definition{}, err
		}
	}
	in := discovery.Instance{
		ID: s.ID, NS: s.NS, Svc: s.Name, Node: c.Node.Name, Version: s.Version, Tags: s.Tags, Meta: s.Meta,
		Weight: s.Weight, WarnWeight: s.WarnWeight, Priority: s.Priority, State: discovery.StateUp, Owner: c.Node.Name,
		Locality: discovery.Locality{Region: c.Node.Locality.Region, Zone: c.Node.Locality.Zone, Labels: c.Node.Locality.Labels},
	}
	names := make([]string, 0, len(s.Ports))
	for name := range s.Ports {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		in.Endpoints = append(in.Endpoints, discovery.Endpoint{Name: name, Proto: s.Ports[name].Proto, Addr: addr, Port: s.Ports[name].Number})
	}
	in.Normalize()
	if err := templated(s); err != nil {
		return definition{}, err
	}
	if err := in.Validate(discovery.Naming{}); err != nil {
		return definition{}, err
	}
	d := definition{instance: in, checks: map[string]discovery.Check{}}
	for k := range s.Checks {
		ch, err := s.Checks[k].check(&in)
		if err == nil {
			err = ch.Validate()
		}
		if err == nil {
			if _, ok := d.checks[ch.ID]; ok {
				err = fmt.Errorf("id: %q is given twice: give each check its own id", ch.ID)
			}
		}
		if err != nil {
			return definition{}, fmt.Errorf("checks[%d]: %w", k, err)
		}
		d.checks[ch.ID] = ch
	}
	return d, nil
}

// templated refuses what the fuller reference would expand, rather than registering it literally.
func templated(s *ServiceConfig) error {
	fields := append([]string{s.ID, s.Name, s.NS, s.Version, s.Addr}, s.Tags...)
	for _, v := range s.Meta {
		fields = append(fields, v)
	}
	for _, v := range fields {
		if strings.Contains(v, "{{") || strings.Contains(v, "${") {
			return fmt.Errorf("%q: expansion of {{…}} and ${…} is not supported yet: write the value out", v)
		}
	}
	return nil
}

// check makes a check of its configuration, filling in the instance's address where only a path or a port is given.
func (c *CheckConfig) check(in *discovery.Instance) (discovery.Check, error) {
	ch := discovery.Check{ID: c.ID, TTL: c.TTL, Interval: c.Interval, Timeout: c.Timeout, Rise: c.Rise, Fall: c.Fall}
	given := 0
	for _, yes := range []bool{c.HTTP != "", c.TCP != "", c.TTL != 0} {
		if yes {
			given++
		}
	}
	if given != 1 {
		return ch, fmt.Errorf("has %d of http, tcp and ttl: give exactly one", given)
	}
	switch {
	case c.HTTP != "":
		ch.Kind, ch.Target = discovery.CheckHTTP, c.HTTP
		if strings.HasPrefix(c.HTTP, "/") {
			e, err := endpoint(in, "http")
			if err != nil {
				return ch, fmt.Errorf("http: %w", err)
			}
			path, err := url.ParseRequestURI(c.HTTP)
			if err != nil {
				return ch, fmt.Errorf("http: %q is not a path: write /path", c.HTTP)
			}
			ch.Target = "http://" + hostPort(e) + path.RequestURI()
		}
	case c.TCP != "":
		ch.Kind, ch.Target = discovery.CheckTCP, c.TCP
		if !strings.Contains(c.TCP, ":") {
			e, err := endpoint(in, c.TCP)
			if err != nil {
				return ch, fmt.Errorf("tcp: %w", err)
			}
			ch.Target = hostPort(e)
		}
	default:
		ch.Kind = discovery.CheckTTL
		if c.Interval != 0 || c.Timeout != 0 {
			return ch, errors.New("ttl: has no interval and timeout: leave them out")
		}
	}
	ch.Normalize()
	return ch, nil
}

// endpoint finds a tcp endpoint by name, or takes the only one if that isn't the name of any.
func endpoint(in *discovery.Instance, name string) (*discovery.Endpoint, error) {
	var only *discovery.Endpoint
	n := 0
	for k := range in.Endpoints {
		e := &in.Endpoints[k]
		if e.Proto != discovery.DefaultProto {
			continue
		}
		if e.Name == name {
			return e, nil
		}
		only, n = e, n+1
	}
	if n != 1 || name != "http" && name != "tcp" {
		return nil, fmt.Errorf("no tcp port is named %q: name one of the service's ports, or write the whole address", name)
	}
	return only, nil
}

func hostPort(e *discovery.Endpoint) string {
	return net.JoinHostPort(e.Addr, strconv.FormatUint(uint64(e.Port), 10))
}
