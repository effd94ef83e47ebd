// Package discovery is the service registry's vocabulary and its writer: what a service, an instance, an endpoint, a
// check and a health record are, how they are named and stored under /muster/v1/, what is refused, and a Registry that
// puts them into the store in batches.
//
// # Types
//
//   - Instance, Endpoint, Locality: one running copy of a service and where it listens. Service: a service's policy.
//   - Health, Status, State: what checks say, what the instance says of itself. Effective merges both.
//   - Check: the definition of one health check (package probe runs it).
//   - Ref and the key functions: the layout of the key space.
//   - Registry: Register, Deregister, Fetch, List over a Store.
//
// # Stored form
//
//	/muster/v1/svc/<ns>/<svc>           Service    no lease, the operator's
//	/muster/v1/inst/<ns>/<svc>/<id>     Instance   the registrar's lease
//	/muster/v1/health/<ns>/<svc>/<id>   Health     the same lease, written on transitions only
//
// Health stands apart from the instance so that flapping rewrites sixty bytes and not the whole record. Values are JSON
// that protojson would accept for the proto3 messages that these types stand for: field names in their
// original form (warn_weight; the lowerCamel form is read too), zero values left out, 64-bit numbers read as numbers or
// strings and written as numbers, null meaning absent, enums by name. The first byte tells the form: '{' is JSON, 0x00
// is reserved for the binary form, which this release refuses by name.
//
// Invariant: a field this release doesn't know survives decoding and encoding again, at every level (Instance, Endpoint,
// Locality, Service, Health), so an older registrar can't strip what a newer tool wrote.
//
// # Concurrency
//
// All types but Registry are plain values. A Registry holds no mutable state and may be used from any goroutine.
//
// # Refusals
//
// Validate refuses names that aren't one lower-case LDH label, reserved names (they'd be ambiguous in DNS), names whose
// longest DNS form would exceed 253 octets, unspecified addresses, and anything past the limits in validate.go. Each error
// is a *FieldError: it names the field, the problem and the remedy.
package discovery
