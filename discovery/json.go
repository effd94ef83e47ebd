package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrUndecodable is what every decoding error wraps: the stored value isn't a record this release can read.
var ErrUndecodable = errors.New("undecodable value")

// The decoder walks JSON that encoding/json has already found valid, so it only has to find where values end. It cuts
// strings out of the one copy of the input: a record costs a handful of allocations, which matters because a catalog
// decodes a hundred thousand of them to start. What it doesn't know it keeps as text, in order, for encoding again.

// object calls fn for each member of the JSON object s, which must be valid JSON. Members whose value is null are left
// out, as protojson does: null means absent.
func object(s string, fn func(key, val string) error) error {
	s = strings.TrimLeft(s, jsonSpace)
	if s == "" || s[0] != '{' {
		return fmt.Errorf("%w: want an object, got %s", ErrUndecodable, clip(s))
	}
	for s = skip(s[1:]); s[0] != '}'; {
		n := valueLen(s)
		key, err := text(s[:n])
		if err != nil {
			return err
		}
		s = skip(s[n:])
		s = skip(s[1:]) // the colon
		n = valueLen(s)
		if val := s[:n]; val != "null" {
			if err := fn(key, val); err != nil {
				return fmt.Errorf("%s: %w", clip(key), err)
			}
		}
		s = skip(s[n:])
		if s[0] == ',' {
			s = skip(s[1:])
		}
	}
	return nil
}

// list calls fn for each element of the JSON array s.
func list(s string, fn func(val string) error) error {
	if s[0] != '[' {
		return fmt.Errorf("%w: want a list, got %s", ErrUndecodable, clip(s))
	}
	for s = skip(s[1:]); s[0] != ']'; {
		n := valueLen(s)
		if err := fn(s[:n]); err != nil {
			return err
		}
		s = skip(s[n:])
		if s[0] == ',' {
			s = skip(s[1:])
		}
	}
	return nil
}

const jsonSpace = " \t\r\n"

func skip(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\n' || s[0] == '\t' || s[0] == '\r') {
		s = s[1:]
	}
	return s
}

// valueLen returns the length of the JSON value at the start of s.
func valueLen(s string) int {
	switch s[0] {
	case '"':
		return stringLen(s)
	case '{', '[':
		depth := 0
		for i := 0; ; i++ {
			switch s[i] {
			case '"':
				i += stringLen(s[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	default:
		if i := strings.IndexAny(s, ",]} \t\r\n"); i >= 0 {
			return i
		}
		return len(s)
	}
}

func stringLen(s string) int {
	for i := 1; ; i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

func text(v string) (string, error) {
	if v[0] != '"' {
		return "", fmt.Errorf("%w: want a string, got %s", ErrUndecodable, clip(v))
	}
	if strings.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], nil
	}
	var s string
	if err := json.Unmarshal([]byte(v), &s); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUndecodable, err)
	}
	return s, nil
}

func texts(v string) ([]string, error) {
	var out []string
	err := list(v, func(e string) error {
		s, err := text(e)
		out = append(out, s)
		return err
	})
	return out, err
}

func textMap(v string) (map[string]string, error) {
	out := map[string]string{}
	err := object(v, func(key, val string) error {
		s, err := text(val)
		out[key] = s
		return err
	})
	if len(out) == 0 {
		return nil, err
	}
	return out, err
}

// number reads an integer written as a number or as a string, with or without an exponent, as protojson does.
func number(v string, minimum int64, maximum uint64) (int64, uint64, error) {
	digits := v
	if v[0] == '"' {
		digits = v[1 : len(v)-1]
	}
	if u, err := strconv.ParseUint(digits, 10, 64); err == nil && u <= maximum {
		return int64(u), u, nil //nolint:gosec // callers that use the signed form pass maximum <= MaxInt64
	}
	if i, err := strconv.ParseInt(digits, 10, 64); err == nil && i < 0 && i >= minimum {
		return i, 0, nil
	}
	if f, err := strconv.ParseFloat(digits, 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 && strings.ContainsAny(digits, ".eE") {
		if f >= 0 && uint64(f) <= maximum || f < 0 && int64(f) >= minimum {
			return int64(f), uint64(max(f, 0)), nil
		}
	}
	return 0, 0, fmt.Errorf("%w: want an integer in range, got %s", ErrUndecodable, clip(v))
}

func u32(v string) (uint32, error) {
	_, u, err := number(v, 0, math.MaxUint32)
	return uint32(u), err //nolint:gosec // bounded by number
}

func u64(v string) (uint64, error) {
	_, u, err := number(v, 0, math.MaxUint64)
	return u, err
}

func i64(v string) (int64, error) {
	i, _, err := number(v, math.MinInt64, math.MaxInt64)
	return i, err
}

// enum reads a name or a number. One this release doesn't know gives newer, not an error: the record as a whole is
// still good.
func enum(v string, names []string, newer uint8) (uint8, error) {
	if v[0] == '"' {
		s, err := text(v)
		for k, name := range names {
			if s == name {
				return uint8(k), err //nolint:gosec // a handful of names
			}
		}
		return newer, err
	}
	_, u, err := number(v, 0, math.MaxInt32)
	if u >= uint64(len(names)) {
		return newer, err
	}
	return uint8(u), err //nolint:gosec // bounded above
}

// keep appends a member this release doesn't know.
func keep(unknown *string, key, val string) {
	k, _ := json.Marshal(key) //nolint:errchkjson // a string always marshals
	if *unknown != "" {
		*unknown += ","
	}
	*unknown += string(k) + ":" + val
}

// document checks the stored bytes' form and returns them as one string.
func document(data []byte) (string, error) {
	switch {
	case len(data) == 0:
		return "", fmt.Errorf("%w: empty", ErrUndecodable)
	case data[0] == 0:
		return "", fmt.Errorf("%w: the binary form (first byte 0x00) is not supported yet: write JSON", ErrUndecodable)
	case data[0] != '{':
		return "", fmt.Errorf("%w: want a JSON object beginning with {", ErrUndecodable)
	case !json.Valid(data):
		return "", fmt.Errorf("%w: not JSON", ErrUndecodable)
	case !utf8.Valid(data):
		return "", fmt.Errorf("%w: not UTF-8", ErrUndecodable)
	}
	return string(data), nil
}

// DecodeInstance reads the value stored at ref's instance key. Names left out are taken from ref; names that
// contradict it are an error, because one of the two must be a mistake.
func DecodeInstance(ref Ref, data []byte) (Instance, error) {
	var i Instance
	s, err := document(data)
	if err == nil {
		err = object(s, i.member)
	}
	if err == nil {
		err = errors.Join(same("ns", &i.NS, ref.NS), same("svc", &i.Svc, ref.Svc), same("id", &i.ID, ref.ID))
	}
	if err != nil {
		return Instance{}, fmt.Errorf("instance %s: %w", ref, err)
	}
	return i, nil
}

// DecodeHealth reads the value stored at ref's health key.
func DecodeHealth(ref Ref, data []byte) (Health, error) {
	var h Health
	s, err := document(data)
	if err == nil {
		err = object(s, h.member)
	}
	if err != nil {
		return Health{}, fmt.Errorf("health of %s: %w", ref, err)
	}
	return h, nil
}

// DecodeService reads the value stored at a service's key.
func DecodeService(ns, name string, data []byte) (Service, error) {
	var v Service
	s, err := document(data)
	if err == nil {
		err = object(s, v.member)
	}
	if err == nil {
		err = errors.Join(same("ns", &v.NS, ns), same("name", &v.Name, name))
	}
	if err != nil {
		return Service{}, fmt.Errorf("service %s/%s: %w", ns, name, err)
	}
	return v, nil
}

func same(field string, have *string, want string) error {
	if *have == "" {
		*have = want
	}
	if *have != want {
		return fmt.Errorf("%w: %s is %q in the value and %q in the key", ErrUndecodable, field, clip(*have), want)
	}
	return nil
}

func (i *Instance) member(key, val string) (err error) {
	switch key {
	case "id":
		i.ID, err = text(val)
	case "ns":
		i.NS, err = text(val)
	case "svc":
		i.Svc, err = text(val)
	case "node":
		i.Node, err = text(val)
	case "version":
		i.Version, err = text(val)
	case "tags":
		i.Tags, err = texts(val)
	case "meta":
		i.Meta, err = textMap(val)
	case "endpoints":
		i.Endpoints = nil
		err = list(val, func(v string) error {
			var e Endpoint
			err := object(v, e.member)
			i.Endpoints = append(i.Endpoints, e)
			return err
		})
	case "tagged_addrs", "taggedAddrs":
		i.TaggedAddrs, err = textMap(val)
	case "weight":
		i.Weight, err = u32(val)
	case "warn_weight", "warnWeight":
		i.WarnWeight, err = u32(val)
	case "priority":
		i.Priority, err = u32(val)
	case "locality":
		i.Locality = Locality{}
		err = object(val, i.Locality.member)
	case "state":
		var u uint8
		u, err = enum(val, stateNames[:], uint8(len(stateNames)))
		if i.State, i.newerState = State(u), ""; int(u) == len(stateNames) {
			i.newerState = val
		}
	case "start_unix_ms", "startUnixMs":
		i.StartUnixMS, err = i64(val)
	case "epoch":
		i.Epoch, err = u64(val)
	case "owner":
		i.Owner, err = text(val)
	case "hostname":
		i.Hostname, err = text(val)
	default:
		keep(&i.unknown, key, val)
	}
	return err
}

func (e *Endpoint) member(key, val string) (err error) {
	switch key {
	case "name":
		e.Name, err = text(val)
	case "proto":
		e.Proto, err = text(val)
	case "addr":
		e.Addr, err = text(val)
	case "port":
		e.Port, err = u32(val)
	case "app":
		e.App, err = text(val)
	case "weight":
		e.Weight, err = u32(val)
	default:
		keep(&e.unknown, key, val)
	}
	return err
}

func (l *Locality) member(key, val string) (err error) {
	switch key {
	case "region":
		l.Region, err = text(val)
	case "zone":
		l.Zone, err = text(val)
	case "host":
		l.Host, err = text(val)
	case "labels":
		l.Labels, err = textMap(val)
	default:
		keep(&l.unknown, key, val)
	}
	return err
}

func (h *Health) member(key, val string) (err error) {
	switch key {
	case "status":
		h.Status, err = checkStatus(val)
	case "since_unix_ms", "sinceUnixMs":
		h.SinceUnixMS, err = i64(val)
	case "transitions":
		h.Transitions, err = u32(val)
	case "checks":
		h.Checks = map[string]Status{}
		err = object(val, func(id, v string) error {
			s, err := checkStatus(v)
			h.Checks[id] = s
			return err
		})
	case "reason":
		h.Reason, err = text(val)
	default:
		keep(&h.unknown, key, val)
	}
	return err
}

func checkStatus(v string) (Status, error) {
	u, err := enum(v, statusNames[:StatusStarting], uint8(StatusUnknown))
	return Status(u), err
}

func (s *Service) member(key, val string) (err error) {
	switch key {
	case "ns":
		s.NS, err = text(val)
	case "name":
		s.Name, err = text(val)
	case "dns_ttl", "dnsTtl":
		s.DNSTTL, err = u32(val)
	case "max_answers", "maxAnswers":
		s.MaxAnswers, err = u32(val)
	case "empty_answer", "emptyAnswer":
		s.EmptyAnswer, err = text(val)
	case "meta":
		s.Meta, err = textMap(val)
	default:
		keep(&s.unknown, key, val)
	}
	return err
}
