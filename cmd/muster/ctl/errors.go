package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/sdk"
)

// etcdctl's exit codes.
const (
	exitError       = 1
	exitConnection  = 2
	exitInput       = 3
	exitFeature     = 4
	exitInterrupted = 5
	exitArgs        = 128
)

// failure is an error with its exit code. text is what etcdctl would say, hint what to try.
type failure struct {
	code  int
	text  string
	hint  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

// badArgs is a mistake in the arguments.
func badArgs(format string, args ...any) error {
	return &failure{code: exitArgs, text: fmt.Sprintf(format, args...)}
}

// failed gives err another exit code and, if format isn't empty, puts its message into one.
func failed(code int, format string, err error) error {
	if err == nil {
		return nil
	}
	f := &failure{code: code, text: message(err), cause: err}
	if inner := (*failure)(nil); errors.As(err, &inner) {
		f.hint = inner.hint
	}
	if format != "" {
		f.text = fmt.Sprintf(format, f.text)
	}
	return f
}

// signaled ends a command as the signal would have.
type signaled struct{ signal syscall.Signal }

func (s signaled) Error() string { return "ended by signal: " + s.signal.String() }
func (s signaled) ExitCode() int { return 128 + int(s.signal) }
func (signaled) Reported() bool  { return true }

// reported is an error that the user has been told of; main only takes its exit code.
type reported struct {
	error
	code int
}

func (r reported) Unwrap() error  { return r.error }
func (r reported) ExitCode() int  { return r.code }
func (r reported) Reported() bool { return true }

// report writes err for the user: etcdctl's line, then what failed and what to try.
func report(cmd *cobra.Command, g *globals, err error) error {
	if done := (signaled{}); errors.As(err, &done) {
		return done
	}
	if done := (reported{}); errors.As(err, &done) {
		return done
	}
	code, hint := exitError, ""
	if f := (*failure)(nil); errors.As(err, &f) {
		code, hint = f.code, f.hint
	}
	if hint == "" {
		hint = advice(err, g)
	}
	if hint == "" && code == exitArgs {
		hint = seeHelp(cmd)
	}
	w := cmd.ErrOrStderr()
	fmt.Fprintln(w, "Error:", message(err))
	if hint != "" {
		fmt.Fprintf(w, "  %s: %s\n", cmd.CommandPath(), hint)
	}
	return reported{err, code}
}

// message is an error as etcd's client words it: the server's text alone, if there is one.
func message(err error) string {
	if f := (*failure)(nil); errors.As(err, &f) {
		return f.text
	}
	if errors.Is(err, sdk.ErrUnavailable) && errors.Is(err, context.DeadlineExceeded) {
		return context.DeadlineExceeded.Error()
	}
	if e := (*sdk.Error)(nil); errors.As(err, &e) {
		switch text := e.Status.Message(); {
		case strings.HasPrefix(text, "etcdserver: "):
			return text
		case e.Status.Code() == codes.DeadlineExceeded, e.Status.Code() == codes.Canceled:
			return strings.ToLower(status.FromContextError(contextError(e.Status.Code())).Message())
		default:
			return e.Status.Err().Error()
		}
	}
	return err.Error()
}

func contextError(c codes.Code) error {
	if c == codes.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// advice is what to try after err, empty if there is nothing to say.
func advice(err error, g *globals) string {
	for _, a := range []struct {
		kind error
		text string
	}{
		{sdk.ErrUnknownOutcome, "the request was sent and its answer is missing: it may or may not have happened; read before repeating it"},
		{sdk.ErrNoLeader, adviceNoLeader}, // no call that needs one is served until there is: ErrUnavailable as well
		{sdk.ErrUnavailable, unserved(err, g)},
		{sdk.ErrLeaseNotFound, "the lease has expired, was revoked or never existed; 'lease list' shows those there are"},
		{sdk.ErrCompacted, "that history is compacted away; leave --rev out, or use a later one"},
		{sdk.ErrFutureRevision, "the store hasn't come that far; 'endpoint status -w fields' shows its revision"},
		{sdk.ErrKeyNotFound, "--ignore-value and --ignore-lease need a key that exists; put it with a value first"},
		{sdk.ErrPermissionDenied, "the user lacks the permission for these keys; have it granted, or use another --user"},
		{sdk.ErrUnauthenticated, "give --user NAME:PASSWORD, or NAME alone to be asked for the password"},
		{sdk.ErrNoSpace, adviceNoSpace},
		{sdk.ErrTooManyRequests, "the member sheds load; try again, more slowly"},
		{sdk.ErrSessionLost, "the lease couldn't be kept alive, so another may hold what it held; check the connection, or use a longer --ttl"},
	} {
		if errors.Is(err, a.kind) {
			return a.text
		}
	}
	for _, a := range []struct{ said, text string }{
		{"unhealthy cluster", "the leader has not been connected to enough members for five seconds; wait, or bring back those that 'endpoint health --cluster' names"},
		{"not enough started members", "too few members would be up; start those that 'member list' shows as unstarted, or remove them; the last voting member stays"},
		{"not supported for learner", "a learner serves 'get --consistency s', 'endpoint status' and 'snapshot save'; give a voting member's endpoint for all else"},
		{"in sync with leader", "the learner is still being brought up; start it if it isn't running, and try again a little later"},
		{"too many learner", "promote or remove the learner there is"},
		{"member not found", "'member list' shows the members; a removed one never comes back under its id"},
		{"bad leader transferee", "'member list' shows the members; a learner can't lead"},
		{"checkpoint is corrupt", "the file is damaged, cut short or no snapshot at all: take another copy"},
		{"is under way", "one change of the members at a time"},
		{"corrupt cluster", adviceCorrupt},
	} {
		if strings.Contains(err.Error(), a.said) {
			return a.text
		}
	}
	switch status.Code(err) {
	case codes.InvalidArgument:
		if strings.Contains(err.Error(), "key is not provided") {
			return "the key is empty; give one, or --prefix for all keys"
		}
	case codes.Unimplemented:
		if strings.Contains(err.Error(), "HTTP status code") {
			return "what answers there isn't a store; check --endpoints"
		}
		return "this server doesn't know the request; see its version with 'endpoint status'"
	}
	return ""
}

// Advice that more than one command gives.
const (
	adviceNoLeader = "a member answered that there is no leader: more than half of the voting members must be up and reach each other; " +
		"see which are with 'endpoint status --cluster', and start the others"
	adviceNoSpace = "the store is full: compact the history ('compaction'), delete keys, or raise --quota-backend-bytes of the members; " +
		"'alarm list' shows the alarm, which ends by itself once there is room, unless it was raised by hand ('alarm disarm')"
	adviceCorrupt = "members disagree on the data, or somebody raised the alarm; their logs and 'endpoint hashkv --cluster' show which one to replace, " +
		"'alarm list' who is meant"
)

// unserved is what to try after a call that no member took in time, by what came of it last: an answer, a connection
// that failed, or nothing.
func unserved(err error, g *globals) string {
	where, text := strings.Join(g.endpoints, ","), err.Error()
	if e := (*sdk.Error)(nil); errors.As(err, &e) {
		text = e.Error() // a command may have worded it otherwise
	}
	if i := strings.LastIndex(text, "etcdserver: "); i >= 0 {
		return fmt.Sprintf("a member at %s answered %q and none could do more within %v; see 'endpoint status' and the members' logs", where, text[i:], g.commandTimeout)
	}
	if cause := lastCause(text); cause != "" {
		return fmt.Sprintf("no member answered at %s within %v%s; check --endpoints, that a server runs there, and https against http",
			where, g.commandTimeout, cause)
	}
	return fmt.Sprintf("nothing came back from %s within %v: a member there may be stopped, cut off or very busy, or what listens there may be none; "+
		"see 'endpoint status', check --endpoints and https against http, or give it a longer --command-timeout", where, g.commandTimeout)
}

// lastCause is the innermost reason in the error of a call that no member took: "connection refused", say.
func lastCause(text string) string {
	if i := strings.LastIndex(text, "dial "); i >= 0 {
		return " (" + strings.Trim(text[i:], `"`) + ")"
	}
	return ""
}
