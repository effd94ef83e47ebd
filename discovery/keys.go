package discovery

import (
	"fmt"
	"strings"
)

// The key space. Every prefix ends in a slash, so that namespace "user" never matches "user-admin".
const (
	// Prefix is the root of everything the registry stores.
	Prefix         = "/muster/v1/"
	servicePrefix  = Prefix + "svc/"
	instancePrefix = Prefix + "inst/"
	healthPrefix   = Prefix + "health/"
)

// Ref names an instance.
type Ref struct{ NS, Svc, ID string }

func (r Ref) String() string { return r.NS + "/" + r.Svc + "/" + r.ID }

// InstanceKey is where the instance's record is stored.
func (r Ref) InstanceKey() string { return instancePrefix + r.NS + "/" + r.Svc + "/" + r.ID }

// HealthKey is where the instance's health is stored.
func (r Ref) HealthKey() string { return healthPrefix + r.NS + "/" + r.Svc + "/" + r.ID }

// ServiceKey is where a service's policy is stored.
func ServiceKey(ns, name string) string { return servicePrefix + ns + "/" + name }

// instancesPrefix bounds the instances of one service, of one namespace (svc empty) or of all (both empty).
func instancesPrefix(base, ns, svc string) string {
	switch {
	case ns == "":
		return base
	case svc == "":
		return base + ns + "/"
	default:
		return base + ns + "/" + svc + "/"
	}
}

// Kind tells what a key under Prefix holds.
type Kind uint8

// The kinds.
const (
	// KindOther is a key of the registry that this release doesn't read (overrides, nodes, queries, or newer).
	KindOther Kind = iota
	KindService
	KindInstance
	KindHealth
)

// ParseKey tells what a key holds and whose it is. For KindService the Ref's ID is empty. A key under one of the three
// known prefixes whose shape or labels are wrong is an error.
func ParseKey(key string) (Kind, Ref, error) {
	var kind Kind
	var rest string
	switch {
	case strings.HasPrefix(key, instancePrefix):
		kind, rest = KindInstance, key[len(instancePrefix):]
	case strings.HasPrefix(key, healthPrefix):
		kind, rest = KindHealth, key[len(healthPrefix):]
	case strings.HasPrefix(key, servicePrefix):
		kind, rest = KindService, key[len(servicePrefix):]
	default:
		return KindOther, Ref{}, nil
	}
	var ref Ref
	var ok bool
	ref.NS, rest, ok = strings.Cut(rest, "/")
	if ok && kind == KindService {
		ref.Svc = rest
	} else if ok {
		ref.Svc, ref.ID, ok = strings.Cut(rest, "/")
		ok = ok && isName(ref.ID)
	}
	if !ok || !isName(ref.NS) || !isName(ref.Svc) {
		return kind, Ref{}, fmt.Errorf("key %q: %w: want %s<ns>/<svc>[/<id>] of lower-case LDH labels", key, ErrInvalid, Prefix+kind.segment()+"/")
	}
	return kind, ref, nil
}

func (k Kind) segment() string {
	switch k {
	case KindService:
		return "svc"
	case KindInstance:
		return "inst"
	case KindHealth:
		return "health"
	default:
		return "other"
	}
}
