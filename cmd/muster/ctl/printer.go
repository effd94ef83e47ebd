package ctl

import (
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// Printer writes results in one format.
type Printer interface {
	// Accepts refuses a result that the format can't show; commands ask it before they send anything.
	Accepts(result) error
	Print(result) error
}

// result is what a command has to say.
type result interface {
	simple(*text)
	fields(*text)
}

// Forms that not every result has.
type (
	jsonForm  interface{ json(hex bool) any }
	tableForm interface {
		table() (header []string, rows [][]string)
	}
	protoForm interface{ message() proto.Message }
)

func newPrinter(format string, w io.Writer, hex bool) (Printer, error) {
	switch format {
	case "simple":
		return &simplePrinter{text{w: w, hex: hex}}, nil
	case "fields":
		return &fieldsPrinter{text{w: w, hex: hex}}, nil
	case "json":
		return &jsonPrinter{w: w, hex: hex}, nil
	case "protobuf":
		return &protoPrinter{w}, nil
	case "table":
		return &tablePrinter{w}, nil
	}
	return nil, &failure{
		code: exitFeature, text: "unsupported output format",
		hint: fmt.Sprintf("-w %s isn't known; use simple, fields, json, protobuf or table", format),
	}
}

// unsupported names the formats that there are for a result.
func unsupported(format string, r result) error {
	known := "simple, fields"
	if _, ok := r.(jsonForm); ok {
		known += ", json"
	}
	if _, ok := r.(tableForm); ok {
		known += ", table"
	}
	if _, ok := r.(protoForm); ok {
		known += ", protobuf"
	}
	return &failure{
		code: exitFeature, text: format + " not supported as output format", hint: "nothing was sent; -w knows here: " + known,
	}
}

// text writes lines and remembers the first error.
type text struct {
	w   io.Writer
	hex bool
	err error
}

func (t *text) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
}

type simplePrinter struct{ text }

func (p *simplePrinter) Accepts(result) error { return nil }

func (p *simplePrinter) Print(r result) error {
	r.simple(&p.text)
	return p.err
}

type fieldsPrinter struct{ text }

func (p *fieldsPrinter) Accepts(result) error { return nil }

func (p *fieldsPrinter) Print(r result) error {
	r.fields(&p.text)
	return p.err
}

type jsonPrinter struct {
	w   io.Writer
	hex bool
}

func (p *jsonPrinter) Accepts(r result) error {
	if _, ok := r.(jsonForm); !ok {
		return unsupported("json", r)
	}
	return nil
}

func (p *jsonPrinter) Print(r result) error {
	f, ok := r.(jsonForm)
	if !ok {
		return unsupported("json", r)
	}
	b, err := json.Marshal(f.json(p.hex))
	if err != nil {
		return fmt.Errorf("write as json: %w", err)
	}
	_, err = fmt.Fprintf(p.w, "%s\n", b)
	return err
}

type protoPrinter struct{ w io.Writer }

func (p *protoPrinter) Accepts(r result) error {
	if _, ok := r.(protoForm); !ok {
		return unsupported("protobuf", r)
	}
	return nil
}

func (p *protoPrinter) Print(r result) error {
	f, ok := r.(protoForm)
	if !ok {
		return unsupported("protobuf", r)
	}
	b, err := proto.Marshal(f.message())
	if err != nil {
		return fmt.Errorf("write as protobuf: %w", err)
	}
	_, err = p.w.Write(b)
	return err
}
