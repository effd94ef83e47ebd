package registrar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/probe"
)

// API returns the handler by which the services of this machine talk to the registrar:
//
//	PUT /v1/pass/<check>, /v1/warn/<check>, /v1/fail/<check>   feed a ttl check; the body is its output
//	GET /v1/status                                             Status and the checks, as JSON
//	GET /ready                                                 200 if all is registered and well, else 503
//
// A check is named ns/service/id/check, or by as many of the last parts as make it unambiguous. There is no
// authentication: the listener must be a unix socket or on loopback. Requests that a browser made for some page are
// refused, so that no page can speak for a service.
func (r *Registrar) API() http.Handler {
	mux := http.NewServeMux()
	for verb, status := range map[string]discovery.Status{
		"pass": discovery.StatusPassing, "warn": discovery.StatusWarning, "fail": discovery.StatusCritical,
	} {
		feed := func(w http.ResponseWriter, req *http.Request) { r.feed(w, req, status) }
		mux.HandleFunc("PUT /v1/"+verb+"/{check...}", feed)
		mux.HandleFunc("POST /v1/"+verb+"/{check...}", feed)
	}
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { r.serveStatus(w) })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if s := r.Status(); !s.Ready {
			http.Error(w, "not ready: "+s.why(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Origin") != "" || req.Header.Get("Sec-Fetch-Site") != "" {
			http.Error(w, "requests from web pages are refused", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, req)
	})
}

func (s Status) why() string {
	switch {
	case s.Draining:
		return "draining"
	case s.Error != "":
		return s.Error
	case len(s.Blocked) > 0:
		return "in another registrar's hands: " + strings.Join(s.Blocked, ", ")
	case len(s.Pending) > 0:
		return "not yet registered: " + strings.Join(s.Pending, ", ")
	}
	return "a check is critical"
}

func (r *Registrar) feed(w http.ResponseWriter, req *http.Request, status discovery.Status) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, probe.MaxOutput))
	if err != nil {
		http.Error(w, fmt.Sprintf("output: %v: send at most %d bytes", err, probe.MaxOutput), http.StatusRequestEntityTooLarge)
		return
	}
	key, err := r.findCheck(req.PathValue("check"))
	if err == nil {
		err = r.Report(key, status, string(body))
	}
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, probe.ErrNotTTL), errors.Is(err, errAmbiguous):
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.Is(err, probe.ErrNoCheck):
		http.Error(w, err.Error(), http.StatusNotFound)
	default:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

var errAmbiguous = errors.New("several checks are named so: put service, id or namespace before it")

// findCheck finds a check by the last parts of its name.
func (r *Registrar) findCheck(name string) (probe.Key, error) {
	var found []probe.Key
	for k := range r.runner.States() {
		if full := k.String(); full == name || strings.HasSuffix(full, "/"+name) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return probe.Key{}, fmt.Errorf("check %q: %w", probe.Clip(name, 200), probe.ErrNoCheck)
	case 1:
		return found[0], nil
	}
	return probe.Key{}, fmt.Errorf("check %q: %w", name, errAmbiguous)
}

// checkStatus is a check in the status document.
type checkStatus struct {
	Status string    `json:"status"`
	Since  time.Time `json:"since"`
	Last   string    `json:"last"`
	At     time.Time `json:"at"`
	Output string    `json:"output"`
}

func (r *Registrar) serveStatus(w http.ResponseWriter) {
	checks := map[string]checkStatus{}
	for k, s := range r.Checks() {
		checks[k.String()] = checkStatus{s.Status.String(), s.Since, s.Last.String(), s.At, s.Output}
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(struct {
		Status
		Checks map[string]checkStatus `json:"checks"`
	}{r.Status(), checks})
}
