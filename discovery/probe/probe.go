package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/musterhq/muster/discovery"
)

// MaxOutput bounds what is kept of a probe's output.
const MaxOutput = 4 << 10

// Result is the outcome of one probe.
type Result struct {
	Status discovery.Status
	// Output is what the service or the attempt said, UTF-8, at most MaxOutput bytes.
	Output string
}

func failed(err error) Result {
	return Result{Status: discovery.StatusCritical, Output: Clip(err.Error(), MaxOutput)}
}

// Clip makes s valid UTF-8 of at most n bytes.
func Clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	s = strings.ToValidUTF8(s, "")
	return s
}

// Prober makes single attempts over the network. The zero Prober is ready.
type Prober struct {
	// Dial replaces net.Dialer, for tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Probe makes one attempt of an http or tcp check, within ctx.
func (p *Prober) Probe(ctx context.Context, c discovery.Check) Result {
	switch c.Kind {
	case discovery.CheckHTTP:
		return p.http(ctx, c.Target)
	case discovery.CheckTCP:
		return p.tcp(ctx, c.Target)
	default:
		return failed(fmt.Errorf("%s checks are not probed", c.Kind))
	}
}

func (p *Prober) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.Dial != nil {
		return p.Dial(ctx, network, addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

func (p *Prober) tcp(ctx context.Context, addr string) Result {
	conn, err := p.dial(ctx, "tcp", addr)
	if err != nil {
		return failed(timedOut(ctx, err))
	}
	_ = conn.Close()
	return Result{Status: discovery.StatusPassing, Output: "connected to " + addr}
}

func (p *Prober) http(ctx context.Context, url string) Result {
	// A connection for each probe: a kept one would hide that the service no longer accepts.
	tr := &http.Transport{DialContext: p.dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return failed(err)
	}
	req.Header.Set("User-Agent", "muster-probe")
	req.Header.Set("Accept", "*/*")
	resp, err := client.Do(req)
	if err != nil {
		return failed(timedOut(ctx, err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxOutput))
	if err != nil {
		return failed(fmt.Errorf("HTTP GET %s: %s: %w", url, resp.Status, timedOut(ctx, err)))
	}
	out := fmt.Sprintf("HTTP GET %s: %s", url, resp.Status)
	if to := resp.Header.Get("Location"); to != "" && resp.StatusCode/100 == 3 {
		out += " to " + to + " (redirects are not followed)"
	}
	if len(body) > 0 {
		out += "\n" + string(body)
	}
	r := Result{Status: discovery.StatusCritical, Output: Clip(out, MaxOutput)}
	switch {
	case resp.StatusCode/100 == 2:
		r.Status = discovery.StatusPassing
	case resp.StatusCode == http.StatusTooManyRequests:
		r.Status = discovery.StatusWarning
	}
	return r
}

// timedOut says it plainly when the time-out ended the attempt.
func timedOut(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("no answer within the time-out")
	}
	return err
}
