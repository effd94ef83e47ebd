package registrar

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/probe"
)

// maxConfig bounds the file: a thousand services with checks have room in it.
const maxConfig = 4 << 20

// planned returns the fields of the fuller reference that this release refuses by name in the
// mapping at path, and whether mappings are looked into there at all. Fields that nobody has heard of are refused by the
// decoder.
func planned(path string) (fields []string, known bool) {
	switch path {
	case "":
		return []string{"dns", "proxy", "sources", "templates", "include", "limits"}, true
	case "services":
		return []string{"deregister_after", "initial", "hooks"}, true
	case "services.checks":
		return []string{"grpc", "udp", "h2ping", "exec", "docker", "systemd", "alias", "expect", "tls", "send", "user"}, true
	case "node":
		return []string{"dc", "meta", "tagged_addrs"}, true
	case "drain":
		return []string{"leave"}, true
	case "lease":
		return nil, true
	}
	return nil, false
}

// Parse reads a configuration, lets override change it (flags over file), and normalizes and validates it. Unknown fields
// are refused with their line; known ones that aren't supported yet are refused as such.
func Parse(data []byte, override ...func(*Config)) (Config, error) {
	var c Config
	if len(data) > maxConfig {
		return c, fmt.Errorf("%w: the file has %d bytes: split the services among several registrars", ErrConfig, len(data))
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, plain(err))
	}
	docs := 0
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if docs++; docs > 1 {
			return c, fmt.Errorf("%w: line %d: a second document: use one", ErrConfig, d.Body.GetToken().Position.Line)
		}
		if err := refusePlanned(d.Body, ""); err != nil {
			return c, err
		}
	}
	if err := yaml.UnmarshalWithOptions(data, &c, yaml.Strict()); err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, plain(err))
	}
	for _, fn := range override {
		fn(&c)
	}
	if err := c.Normalize(); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// plain drops the excerpt of the source that the YAML library adds: the line is enough, and the file may be long.
func plain(err error) error {
	msg := yaml.FormatError(err, false, false)
	if errors.Is(err, ErrConfig) || strings.TrimSpace(msg) == "" {
		return err
	}
	return errors.New("line " + strings.TrimPrefix(strings.TrimSpace(msg), "["))
}

// refusePlanned walks mappings and lists by the names in planned.
func refusePlanned(n ast.Node, path string) error {
	switch v := n.(type) {
	case *ast.SequenceNode:
		for _, e := range v.Values {
			if err := refusePlanned(e, path); err != nil {
				return err
			}
		}
	case *ast.MappingNode:
		for _, e := range v.Values {
			if err := refuseEntry(e, path); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		return refuseEntry(v, path)
	}
	return nil
}

func refuseEntry(e *ast.MappingValueNode, path string) error {
	if e.Key == nil || e.Key.GetToken() == nil {
		return nil
	}
	key := e.Key.GetToken().Value
	if fields, _ := planned(path); slices.Contains(fields, key) {
		return fmt.Errorf("%w: %w", ErrConfig, &discovery.FieldError{
			Field:   strings.TrimPrefix(path+"."+key, "."),
			Problem: fmt.Sprintf("line %d: %s is not supported yet", e.Key.GetToken().Position.Line, key),
			Remedy:  "remove it" + instead(path),
		})
	}
	sub := strings.TrimPrefix(path+"."+key, ".")
	switch key {
	case "ttl", "interval", "timeout", "delay":
		// The decoder's own message has no line, and it would take a bare number for nanoseconds.
		if e.Value == nil || e.Value.GetToken() == nil {
			return nil
		}
		if v := e.Value.GetToken().Value; notDuration(v) {
			return fmt.Errorf("%w: %w", ErrConfig, &discovery.FieldError{
				Field: sub, Problem: fmt.Sprintf("line %d: %q is not a duration", e.Key.GetToken().Position.Line, probe.Clip(v, 40)), Remedy: "write 500ms, 30s or 10m",
			})
		}
	}
	if _, known := planned(sub); known && e.Value != nil {
		return refusePlanned(e.Value, sub)
	}
	return nil
}

func notDuration(v string) bool {
	_, err := time.ParseDuration(v)
	return err != nil
}

func instead(path string) string {
	if path == "services.checks" {
		return "; checks are http, tcp or ttl"
	}
	return ""
}
