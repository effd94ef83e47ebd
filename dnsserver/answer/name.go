package answer

import (
	"strings"

	"github.com/musterhq/muster/discovery"
)

// kind is what a name below the zone stands for, by its shape alone.
type kind uint8

const (
	unknown  kind = iota
	apex          // Z
	branch        // svc.Z, dns.Z: names below it, no records
	nsHost        // ns.dns.Z
	version       // dns-version.Z
	service       // svc is set; ns may be; single says that it was one label, maybe a namespace
	protocol      // proto.svc.ns: names below it, no records
	port          // port.proto.svc.ns
	instance      // id.svc.ns
)

// place is a name taken apart.
type place struct {
	kind        kind
	ns, svc     string
	id          string
	port, proto string // without their underscores
	single      bool
}

// locate takes a name inside the zone apart. It allocates nothing.
func (z *Zone) locate(name string) place {
	if name == z.origin {
		return place{kind: apex}
	}
	rel := strings.TrimSuffix(name, z.suffix)
	switch rel {
	case "svc", "dns":
		return place{kind: branch}
	case "ns.dns":
		return place{kind: nsHost}
	case "dns-version":
		return place{kind: version}
	}
	rel, ok := strings.CutSuffix(rel, ".svc")
	if !ok {
		return place{}
	}
	// From the left: [_port.]_proto. of an SRV name.
	var p place
	if strings.HasPrefix(rel, "_") {
		first, rest, ok := strings.Cut(rel, ".")
		if !ok {
			return place{}
		}
		p.kind, p.proto = protocol, first[1:]
		if strings.HasPrefix(rest, "_") {
			second, rest2, ok := strings.Cut(rest, ".")
			if !ok {
				return place{}
			}
			p.kind, p.port, p.proto, rest = port, first[1:], second[1:], rest2
		}
		rel = rest
	}
	// What is left: svc, svc.ns or id.svc.ns.
	first, rest, ok := strings.Cut(rel, ".")
	if !ok {
		p.svc, p.ns, p.single = first, discovery.DefaultNamespace, true
		if p.kind == unknown {
			p.kind = service
		}
		return p
	}
	second, third, ok := strings.Cut(rest, ".")
	if !ok {
		p.svc, p.ns = first, rest
		if p.kind == unknown {
			p.kind = service
		}
		return p
	}
	if p.kind != unknown || strings.Contains(third, ".") {
		return place{}
	}
	return place{kind: instance, id: first, svc: second, ns: third}
}
