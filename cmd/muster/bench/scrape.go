package bench

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// scrape is what /metrics said at one moment: a value by metric, labels included.
type scrape map[string]float64

// scraper reads a server's /metrics.
type scraper struct {
	client http.Client
	url    string
}

func newScraper(addr string) *scraper {
	return &scraper{client: http.Client{Transport: &http.Transport{}}, url: "http://" + addr + "/metrics"}
}

func (s *scraper) close() { s.client.CloseIdleConnections() }

// read reads the metrics whose names begin with one of prefixes.
func (s *scraper) read(ctx context.Context, prefixes ...string) (scrape, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", s.url, resp.Status)
	}
	return parseMetrics(resp.Body, prefixes)
}

// parseMetrics reads Prometheus' text form.
func parseMetrics(r io.Reader, prefixes []string) (scrape, error) {
	found := scrape{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		for _, p := range prefixes {
			if !strings.HasPrefix(line, p) {
				continue
			}
			i := strings.LastIndexByte(line, ' ')
			v, err := strconv.ParseFloat(line[i+1:], 64)
			if i < 0 || err != nil {
				return nil, fmt.Errorf("metrics: %q is not a metric with a value", line)
			}
			found[line[:i]] = v
		}
	}
	return found, lines.Err()
}

// bucketsOf reads a histogram: how many were at most each bound, in the order of bounds.
func (s scrape) bucketsOf(name string) cumulative {
	var c cumulative
	for key, v := range s {
		rest, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		if !ok {
			continue
		}
		bound, err := strconv.ParseFloat(strings.TrimSuffix(rest, `"}`), 64) // "+Inf" too
		if err == nil {
			c = append(c, bucket{bound, v})
		}
	}
	slices.SortFunc(c, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	return c
}

// cumulative is a histogram as Prometheus has it.
type cumulative []bucket

// bucket says how many values were at most a bound.
type bucket struct{ bound, count float64 }

// count is how many values there are.
func (c cumulative) count() float64 {
	if len(c) == 0 {
		return 0
	}
	return c[len(c)-1].count
}

// add adds what came between two scrapes.
func (c cumulative) add(before, after cumulative) cumulative {
	if c == nil {
		c = make(cumulative, len(after))
		for i := range after {
			c[i].bound = after[i].bound
		}
	}
	for i := range min(len(c), len(before), len(after)) {
		c[i].count += after[i].count - before[i].count
	}
	return c
}

// quantile is interpolated within its bucket, as Prometheus does; above the last bound it
// is that bound.
func (c cumulative) quantile(q float64) float64 {
	rank := q * c.count()
	var low bucket
	for _, b := range c {
		if b.count >= rank && b.count > 0 {
			if math.IsInf(b.bound, 1) {
				return low.bound
			}
			if b.count == low.count {
				return b.bound
			}
			return low.bound + (b.bound-low.bound)*(rank-low.count)/(b.count-low.count)
		}
		low = b
	}
	return 0
}
