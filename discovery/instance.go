package discovery

import (
	"fmt"
	"net/netip"
)

// Defaults that Normalize fills in; weight and priority follow SkyDNS (SRV weight 100, priority 10).
const (
	DefaultNamespace = "default"
	DefaultProto     = "tcp"
	DefaultWeight    = 100
	DefaultPriority  = 10
)

// State is what an instance says of itself, apart from what its checks say. The zero value is up, so that a record
// written by hand with only an endpoint serves.
type State uint8

// The states, in the order of the proto enum that the binary form will have.
const (
	StateUnset State = iota
	StateStarting
	StateUp
	StateDraining
)

var stateNames = [...]string{"", "STARTING", "UP", "DRAINING"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		if s == StateUnset {
			return "UP"
		}
		return stateNames[s]
	}
	return fmt.Sprintf("STATE_%d", uint8(s))
}

// Endpoint is one address and port on which an instance listens. An instance has a list of them, because one
// address and port per instance forces services named after ports.
type Endpoint struct {
	// Name is the port's name, an LDH label such as "http"; it is the _name of DNS SRV questions. May be empty if the
	// instance has only one name-less port.
	Name string
	// Proto is the transport, "tcp" if empty; the second label of DNS SRV questions.
	Proto string
	// Addr is an IPv4 or IPv6 address without zone, or a host name.
	Addr string
	// Port is 1 to 65535.
	Port uint32
	// App is the application protocol, such as "h2c"; informative.
	App string
	// Weight overrides the instance's weight for this endpoint; 0 takes the instance's.
	Weight uint32

	unknown string
}

// IP returns the endpoint's address if it is an IP address, and false if it is a host name.
func (e *Endpoint) IP() (netip.Addr, bool) {
	ip, err := netip.ParseAddr(e.Addr)
	if err != nil {
		return netip.Addr{}, false
	}
	return ip.Unmap(), true
}

// Locality says where an instance runs.
type Locality struct {
	Region, Zone, Host string
	Labels             map[string]string

	unknown string
}

// IsZero reports whether nothing is said.
func (l *Locality) IsZero() bool {
	return l.Region == "" && l.Zone == "" && l.Host == "" && len(l.Labels) == 0 && l.unknown == ""
}

// Instance is one running copy of a service.
type Instance struct {
	// ID, NS and Svc are the instance's name: one LDH label each.
	ID, NS, Svc string
	// Node is the host it runs on, an LDH label.
	Node string
	// Version is the software's version, free text.
	Version string
	// Tags select instances; one that is an LDH label can be asked for in DNS.
	Tags []string
	// Meta is free text by name; DNS answers it as TXT.
	Meta map[string]string
	// Endpoints are where it listens.
	Endpoints []Endpoint
	// TaggedAddrs are other addresses of the instance by name, such as "wan".
	TaggedAddrs map[string]string
	// Weight is the SRV weight while passing, WarnWeight while warning, Priority the SRV priority (lower is tried first).
	Weight, WarnWeight, Priority uint32
	// Locality says where it runs.
	Locality Locality
	// State is what the instance says of itself.
	State State
	// StartUnixMS is when its registrar first registered it, in milliseconds since 1970.
	StartUnixMS int64
	// Owner names the registrar that keeps the record, Epoch that registrar's incarnation: a greater epoch of the same
	// owner takes the record over, another owner may not.
	Owner string
	Epoch uint64
	// Hostname is the host name of the machine or container; informative.
	Hostname string

	unknown    string
	newerState string // the stored text of a State this release doesn't know
}

// Ref returns the instance's name.
func (i *Instance) Ref() Ref { return Ref{NS: i.NS, Svc: i.Svc, ID: i.ID} }

// Normalize fills in the defaults, so that what is stored is explicit: namespace "default", state UP, weight 100,
// warn weight a tenth of the weight, priority 10, protocol tcp.
func (i *Instance) Normalize() {
	if i.NS == "" {
		i.NS = DefaultNamespace
	}
	if i.State == StateUnset {
		i.State = StateUp
	}
	if i.Weight == 0 {
		i.Weight = DefaultWeight
	}
	if i.WarnWeight == 0 {
		i.WarnWeight = max(1, i.Weight/10)
	}
	if i.Priority == 0 {
		i.Priority = DefaultPriority
	}
	for k := range i.Endpoints {
		if i.Endpoints[k].Proto == "" {
			i.Endpoints[k].Proto = DefaultProto
		}
	}
}

// WeightAt returns the weight of endpoint e (one of the instance's) while the instance's effective status is st, with
// the defaults applied: what a DNS SRV record or a load balancer uses. It is never 0.
func (i *Instance) WeightAt(e *Endpoint, st Status) uint32 {
	w := i.Weight
	if w == 0 {
		w = DefaultWeight
	}
	if e != nil && e.Weight != 0 {
		w = e.Weight
	}
	if st == StatusWarning {
		if i.WarnWeight != 0 {
			return min(w, i.WarnWeight)
		}
		return max(1, w/10)
	}
	return w
}

// PriorityOrDefault is the SRV priority with the default applied.
func (i *Instance) PriorityOrDefault() uint32 {
	if i.Priority == 0 {
		return DefaultPriority
	}
	return i.Priority
}

// KeepUnknown takes over the fields of old that this release doesn't know, for a record about to replace it. Endpoints
// are matched by name and protocol. Fields already carried are kept.
func (i *Instance) KeepUnknown(old *Instance) {
	if i.unknown == "" {
		i.unknown = old.unknown
	}
	if i.Locality.unknown == "" {
		i.Locality.unknown = old.Locality.unknown
	}
	for k := range i.Endpoints {
		e := &i.Endpoints[k]
		for j := range old.Endpoints {
			o := &old.Endpoints[j]
			if e.unknown == "" && e.Name == o.Name && e.Proto == o.Proto && e.Addr == o.Addr {
				e.unknown = o.unknown
			}
		}
	}
}
