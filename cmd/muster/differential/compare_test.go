package differential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// compare gives the first thing in which two transcripts differ without
// excuse, "" if there is none, and counts the excuses.
func compare(p Program, etcd, ours transcript, excused map[string]int) string {
	for i, step := range p.Steps {
		a, b := etcd.answers[i].text, ours.answers[i].text
		if a == b {
			continue
		}
		all := differences()
		if d := slices.IndexFunc(all, func(d difference) bool { return d.excuses(step, a, b) }); d >= 0 {
			excused[all[d].name]++
			continue
		}
		sent := ""
		if ours.answers[i].sent != "" {
			sent = "sent   " + ours.answers[i].sent + "\n"
		}
		return "in " + step.Method + fmt.Sprintf(", step %d  %v\n%setcd   %s\nmuster %s\n", i, step, sent, a, b)
	}
	if etcd.model != "" {
		return etcd.model
	}
	if slices.Equal(etcd.watched, ours.watched) {
		return ""
	}
	i := 0
	for i < min(len(etcd.watched), len(ours.watched)) && etcd.watched[i] == ours.watched[i] {
		i++
	}
	from := max(0, i-3)
	show := func(lines []string) string { return strings.Join(lines[from:min(len(lines), i+4)], "\n       ") }
	return fmt.Sprintf("watchers were told other things, from line %d on\netcd   %s\nmuster %s\n", i, show(etcd.watched), show(ours.watched))
}

// pair is etcd and Muster side by side.
type pair struct {
	etcd, ours *server
	requests   int
}

// programs says how to start each of the two.
type programs struct {
	etcd, ours []string
	members    int // of Muster's cluster
}

func (c programs) start(ctx context.Context, home string) (_ *pair, err error) {
	p := &pair{}
	if p.etcd, err = startServer(ctx, "etcd", c.etcd, home, 1); err != nil {
		return nil, err
	}
	p.etcd.model = newModel()
	if p.ours, err = startServer(ctx, "muster", c.ours, home, c.members); err != nil {
		return nil, errors.Join(err, p.etcd.stop())
	}
	return p, nil
}

func (p *pair) stop() error { return errors.Join(p.etcd.stop(), p.ours.stop()) }

// run takes a program through both at once.
func (p *pair) run(ctx context.Context, prog Program) (etcd, ours transcript, err error) {
	done := make(chan error, 1)
	go func() {
		var err error
		etcd, err = p.etcd.run(ctx, prog)
		done <- err
	}()
	ours, err = p.ours.run(ctx, prog)
	p.requests += len(prog.Steps)
	return etcd, ours, errors.Join(<-done, err)
}

// shrink gives the smallest program that still fails, as far as a number of
// attempts brings it: first steps are left out, then parts of requests.
func shrink(prog Program, attempts int, fails func(Program) bool) Program {
	try := func(steps []Step) bool {
		if attempts--; attempts < 0 {
			return false
		}
		return fails(Program{Name: prog.Name, Steps: steps})
	}
	for size := (len(prog.Steps) + 1) / 2; size > 0; size /= 2 {
		for at := len(prog.Steps) - size; at >= 0; at -= size {
			if fewer := slices.Delete(slices.Clone(prog.Steps), at, at+size); try(fewer) {
				prog.Steps = fewer
				at = min(at, len(prog.Steps))
			}
		}
	}
	for i := range prog.Steps {
		for {
			simpler := slices.IndexFunc(simplifications(prog.Steps[i]), func(s Step) bool {
				steps := slices.Clone(prog.Steps)
				steps[i] = s
				if !try(steps) {
					return false
				}
				prog.Steps = steps
				return true
			})
			if simpler < 0 {
				break
			}
		}
	}
	return prog
}

// simplifications are the step with one thing less in it.
func simplifications(s Step) (all []Step) {
	if s.Mangle != 0 || s.Request == nil {
		return nil // what was mangled depends on all of it
	}
	cut := func(edit func(m protoreflect.Message)) {
		less := s
		less.Request = proto.Clone(s.Request)
		edit(less.Request.ProtoReflect())
		all = append(all, less)
	}
	var visit func(path func(protoreflect.Message) protoreflect.Message, m protoreflect.Message)
	visit = func(path func(protoreflect.Message) protoreflect.Message, m protoreflect.Message) {
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if !fd.IsList() {
				cut(func(root protoreflect.Message) { path(root).Clear(fd) })
				if fd.Kind() == protoreflect.MessageKind {
					visit(func(root protoreflect.Message) protoreflect.Message { return path(root).Get(fd).Message() }, v.Message())
				}
				return true
			}
			for i := range v.List().Len() {
				cut(func(root protoreflect.Message) {
					list := path(root).Mutable(fd).List()
					for j := i + 1; j < list.Len(); j++ {
						list.Set(j-1, list.Get(j))
					}
					list.Truncate(list.Len() - 1)
				})
				if fd.Kind() == protoreflect.MessageKind {
					visit(func(root protoreflect.Message) protoreflect.Message {
						return path(root).Get(fd).List().Get(i).Message()
					}, v.List().Get(i).Message())
				}
			}
			return true
		})
	}
	visit(func(root protoreflect.Message) protoreflect.Message { return root }, s.Request.ProtoReflect())
	return all
}
