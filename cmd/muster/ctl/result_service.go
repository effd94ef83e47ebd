package ctl

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/discovery"
)

type serviceLine struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Serving   int    `json:"serving"`
	Instances int    `json:"instances"`
}

type servicesResult struct {
	Revision int64         `json:"revision"`
	Services []serviceLine `json:"services"`
}

func (r servicesResult) sort() {
	slices.SortFunc(r.Services, func(a, b serviceLine) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

func (r servicesResult) simple(t *text) { t.rows(r) }

func (r servicesResult) fields(t *text) {
	t.printf("\"Revision\" : %d\n", r.Revision)
	for _, s := range r.Services {
		t.printf("\"Namespace\" : %q\n\"Name\" : %q\n\"Serving\" : %d\n\"Instances\" : %d\n\n", s.Namespace, s.Name, s.Serving, s.Instances)
	}
}
func (r servicesResult) json(bool) any { return r }

func (r servicesResult) table() (header []string, rows [][]string) {
	for _, s := range r.Services {
		rows = append(rows, []string{s.Namespace, s.Name, strconv.Itoa(s.Serving), strconv.Itoa(s.Instances)})
	}
	return []string{"namespace", "name", "serving", "instances"}, rows
}

type instanceLine struct {
	ID        string              `json:"id"`
	Status    string              `json:"status"`
	Serving   bool                `json:"serving"`
	Node      string              `json:"node,omitempty"`
	Endpoints []string            `json:"endpoints"`
	Reason    string              `json:"reason,omitempty"`
	Lease     int64               `json:"lease,omitempty"`
	Revision  int64               `json:"mod_revision"`
	Record    *discovery.Instance `json:"record,omitempty"`
	Health    *discovery.Health   `json:"health,omitempty"`
}

// newInstanceLine describes a record; one that can't be read serves nobody, and says so.
func newInstanceLine(rec discovery.Record) instanceLine {
	l := instanceLine{ID: rec.Ref.ID, Lease: rec.Lease, Revision: rec.Rev, Endpoints: []string{}}
	if rec.Err != nil {
		l.Status, l.Reason = discovery.StatusUnknown.String(), rec.Err.Error()
		return l
	}
	status := discovery.Effective(&rec.Instance, rec.Health)
	l.Status, l.Serving, l.Node = status.String(), status.Serving(), rec.Instance.Node
	l.Record, l.Health = &rec.Instance, rec.Health
	if rec.Health != nil {
		l.Reason = rec.Health.Reason
	}
	for _, e := range rec.Instance.Endpoints {
		text := net.JoinHostPort(e.Addr, strconv.FormatUint(uint64(e.Port), 10)) + "/" + e.Proto
		if e.Name != "" {
			text = e.Name + "=" + text
		}
		l.Endpoints = append(l.Endpoints, text)
	}
	return l
}

type serviceResult struct {
	Revision  int64              `json:"revision"`
	Namespace string             `json:"namespace"`
	Name      string             `json:"name"`
	Policy    *discovery.Service `json:"policy,omitempty"`
	Instances []instanceLine     `json:"instances"`
}

func (r serviceResult) simple(t *text) { t.rows(r) }

func (r serviceResult) fields(t *text) {
	t.printf("\"Revision\" : %d\n\"Namespace\" : %q\n\"Name\" : %q\n", r.Revision, r.Namespace, r.Name)
	for _, l := range r.Instances {
		t.printf("\n\"ID\" : %q\n\"Status\" : %q\n\"Serving\" : %t\n\"Node\" : %q\n", l.ID, l.Status, l.Serving, l.Node)
		for _, e := range l.Endpoints {
			t.printf("\"Endpoint\" : %q\n", e)
		}
		t.printf("\"Reason\" : %q\n", l.Reason)
		t.idField("Lease", l.Lease)
	}
}
func (r serviceResult) json(bool) any { return r }

func (r serviceResult) table() (header []string, rows [][]string) {
	for _, l := range r.Instances {
		rows = append(rows, []string{l.ID, l.Status, l.Node, strings.Join(l.Endpoints, " "), l.Reason})
	}
	return []string{"ID", "status", "node", "endpoints", "reason"}, rows
}
