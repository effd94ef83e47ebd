package discovery

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// CheckKind is how a check finds out.
type CheckKind uint8

// The kinds of checks of this release.
const (
	// CheckHTTP asks a URL: 2xx passes, 429 warns, anything else and no answer in time is critical.
	CheckHTTP CheckKind = iota + 1
	// CheckTCP connects.
	CheckTCP
	// CheckTTL is told by the service itself, and turns critical when it wasn't told for the check's TTL.
	CheckTTL
)

func (k CheckKind) String() string {
	switch k {
	case CheckHTTP:
		return "http"
	case CheckTCP:
		return "tcp"
	case CheckTTL:
		return "ttl"
	}
	return fmt.Sprintf("check kind %d", uint8(k))
}

// The defaults of Check, filled in by Normalize.
const (
	DefaultCheckInterval = 10 * time.Second
	DefaultCheckTimeout  = 5 * time.Second
	DefaultRise          = 2
	DefaultFall          = 3
	MinCheckInterval     = 100 * time.Millisecond
)

// Check defines one health check of an instance.
type Check struct {
	// ID names the check within its instance, an LDH label; its kind if empty.
	ID   string
	Kind CheckKind
	// Target is the URL of CheckHTTP or the host:port of CheckTCP.
	Target string
	// TTL is how long a CheckTTL believes what it was told.
	TTL time.Duration
	// Interval is from the start of one probe to the start of the next, Timeout how long one may take.
	Interval, Timeout time.Duration
	// Rise and Fall are how many results in a row change the status for the better and for the worse.
	Rise, Fall int
}

// Normalize fills in the defaults. A CheckTTL changes at once (rise and fall 1) unless told otherwise.
func (c *Check) Normalize() {
	if c.ID == "" {
		c.ID = c.Kind.String()
	}
	if c.Kind == CheckTTL {
		c.Rise, c.Fall = max(1, c.Rise), max(1, c.Fall)
		return
	}
	if c.Interval == 0 {
		c.Interval = DefaultCheckInterval
	}
	if c.Timeout == 0 {
		c.Timeout = min(DefaultCheckTimeout, c.Interval)
	}
	if c.Rise == 0 {
		c.Rise = DefaultRise
	}
	if c.Fall == 0 {
		c.Fall = DefaultFall
	}
}

// Validate checks a normalized check.
func (c *Check) Validate() error {
	var p problems
	p.label("id", c.ID, MaxLabel)
	switch c.Kind {
	case CheckHTTP:
		u, err := url.Parse(c.Target)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			p.add("http", fmt.Sprintf("%q is not a URL", clip(c.Target)), "write http://host:port/path")
		case u.User != nil:
			p.add("http", "has a user and password in it", "ask a path that needs none")
		}
	case CheckTCP:
		host, port, err := net.SplitHostPort(c.Target)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ ") {
			p.add("tcp", fmt.Sprintf("%q is not an address", clip(c.Target)), "write host:port")
		}
	case CheckTTL:
		if c.TTL < time.Second {
			p.add("ttl", fmt.Sprintf("%v is too short", c.TTL), "use at least 1s")
		}
	default:
		p.add("kind", c.Kind.String()+" is unknown", "use http, tcp or ttl")
	}
	if c.Kind != CheckTTL {
		if c.Interval < MinCheckInterval {
			p.add("interval", fmt.Sprintf("%v is too short", c.Interval), fmt.Sprintf("use at least %v", MinCheckInterval))
		}
		if c.Timeout <= 0 || c.Timeout > c.Interval {
			p.add("timeout", fmt.Sprintf("%v is out of range", c.Timeout), fmt.Sprintf("use more than 0 and at most the interval (%v)", c.Interval))
		}
	}
	if c.Rise < 1 || c.Rise > 100 {
		p.add("rise", fmt.Sprintf("%d is out of range", c.Rise), "use 1 to 100")
	}
	if c.Fall < 1 || c.Fall > 100 {
		p.add("fall", fmt.Sprintf("%d is out of range", c.Fall), "use 1 to 100")
	}
	return p.err()
}
