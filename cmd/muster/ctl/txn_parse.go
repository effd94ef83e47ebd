package ctl

import (
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var compareResults = map[string]pb.Compare_CompareResult{
	"=": pb.Compare_EQUAL, "!=": pb.Compare_NOT_EQUAL, "<": pb.Compare_LESS, ">": pb.Compare_GREATER,
}

// parseCompare reads a condition such as mod("key") > "0".
func parseCompare(line string) (*pb.Compare, error) {
	target, rest, found := strings.Cut(line, "(")
	if !found {
		return nil, badInput("malformed comparison: %s", line)
	}
	key, op, operand, ok := parseComparison(rest)
	if !ok {
		return nil, badInput("malformed comparison: %s; got %s(%q) %s %q", line, target, key, op, operand)
	}
	result, ok := compareResults[op]
	if !ok {
		return nil, badInput("malformed comparison: %s (unknown operator %s)", line, op)
	}
	c := &pb.Compare{Key: []byte(key), Result: result}
	base := 10
	if target == "lease" {
		base = 16
	}
	number, numberErr := strconv.ParseInt(operand, base, 64)
	switch target {
	case "ver", "version":
		c.Target, c.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: number}
	case "c", "create":
		c.Target, c.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: number}
	case "m", "mod":
		c.Target, c.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: number}
	case "lease":
		c.Target, c.TargetUnion = pb.Compare_LEASE, &pb.Compare_Lease{Lease: number}
	case "val", "value":
		c.Target, c.TargetUnion, numberErr = pb.Compare_VALUE, &pb.Compare_Value{Value: []byte(operand)}, nil
	default:
		return nil, badInput("malformed comparison: %s (unknown target %s)", line, target)
	}
	if numberErr != nil {
		return nil, badInput("invalid txn compare request: %s", line)
	}
	return c, nil
}

// parseComparison takes apart what follows the opening bracket; what it has read when it fails is for the message.
func parseComparison(s string) (key, op, operand string, ok bool) {
	key, s, ok = cutQuoted(s)
	if !ok {
		return "", "", "", false
	}
	s, ok = strings.CutPrefix(strings.TrimSpace(s), ")")
	if !ok {
		return key, "", "", false
	}
	s = strings.TrimSpace(s)
	i := strings.IndexAny(s, "\"` \t")
	if i < 0 {
		return key, s, "", false
	}
	op = s[:i]
	operand, s, ok = cutQuoted(strings.TrimSpace(s[i:]))
	return key, op, operand, ok && strings.TrimSpace(s) == ""
}

// cutQuoted takes a string in Go's quotes from the beginning of s.
func cutQuoted(s string) (value, rest string, ok bool) {
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil || quoted[0] == '\'' {
		return "", s, false
	}
	value, err = strconv.Unquote(quoted)
	return value, s[len(quoted):], err == nil
}

// parseRequest reads a line of get, put or del.
func parseRequest(line string) (*pb.RequestOp, error) {
	words, err := splitWords(line)
	if err != nil {
		return nil, err
	}
	if len(words) < 2 {
		return nil, badInput("invalid txn compare request: %s", line)
	}
	f := pflag.NewFlagSet(words[0], pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	var request func(args []string) (*pb.RequestOp, error)
	switch words[0] {
	case "get":
		var o getFlags
		o.register(f)
		request = func(args []string) (*pb.RequestOp, error) {
			req, err := o.request(args)
			return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: req}}, err
		}
	case "put":
		var o putFlags
		o.register(f)
		request = func(args []string) (*pb.RequestOp, error) {
			req, err := o.request(args, noInput{})
			return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: req}}, err
		}
	case "del":
		var o delFlags
		o.register(f)
		request = func(args []string) (*pb.RequestOp, error) {
			req, err := o.request(args)
			return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: req}}, err
		}
	default:
		return nil, badInput("invalid txn request: %s", line)
	}
	if err := f.Parse(words[1:]); err != nil {
		return nil, badInput("invalid txn request: %s (%v)", line, err)
	}
	return request(f.Args())
}

// splitWords splits a line at spaces. A word may be in single quotes, as it stands, or in double quotes, with Go's
// escapes.
func splitWords(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t\r\n")
		switch {
		case line == "":
			return words, nil
		case line[0] == '"':
			word, rest, ok := cutQuoted(line)
			if !ok {
				return nil, badInput("bad quotes: %s", line)
			}
			words, line = append(words, word), rest
		case line[0] == '\'':
			word, rest, ok := strings.Cut(line[1:], "'")
			if !ok {
				return nil, badInput("bad quotes: %s", line)
			}
			words, line = append(words, word), rest
		default:
			i := strings.IndexAny(line, " \t\r\n")
			if i < 0 {
				i = len(line)
			}
			words, line = append(words, line[:i]), line[i:]
		}
	}
}
