package ctl

import (
	"io"
	"strings"
	"unicode/utf8"
)

// tablePrinter draws a box: headings in capitals and centred, cells to the right.
type tablePrinter struct{ w io.Writer }

func (p *tablePrinter) Accepts(r result) error {
	if _, ok := r.(tableForm); !ok {
		return unsupported("table", r)
	}
	return nil
}

func (p *tablePrinter) Print(r result) error {
	f, ok := r.(tableForm)
	if !ok {
		return unsupported("table", r)
	}
	header, rows := f.table()
	width := make([]int, len(header))
	for i, h := range header {
		header[i] = strings.ToUpper(strings.ReplaceAll(h, "_", " "))
		width[i] = utf8.RuneCountInString(h)
	}
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	rule := func(left, middle, right string) {
		for i, n := range width {
			b.WriteString(left + strings.Repeat("─", n+2))
			left = middle
			if i == len(width)-1 {
				b.WriteString(right + "\n")
			}
		}
	}
	line := func(cells []string, before func(room int) int) {
		for i, c := range cells {
			room := width[i] - utf8.RuneCountInString(c)
			n := before(room)
			b.WriteString("│ " + strings.Repeat(" ", n) + c + strings.Repeat(" ", room-n) + " ")
		}
		b.WriteString("│\n")
	}
	rule("┌", "┬", "┐")
	line(header, func(room int) int { return room / 2 })
	if len(rows) > 0 {
		rule("├", "┼", "┤")
	}
	for _, row := range rows {
		line(row, func(room int) int { return room })
	}
	rule("└", "┴", "┘")
	_, err := io.WriteString(p.w, b.String())
	return err
}
