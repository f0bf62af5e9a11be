package program

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	cellWidth = 40 // characters of a column's text
	lineWidth = 120
)

// printable is foreign text for a terminal, at most that many characters. Characters that
// are not visible, such as those that move the cursor or change the direction of writing,
// are escaped.
func printable(text string, most int) string {
	var b strings.Builder
	width := 0
	for _, r := range text {
		if width++; width > most {
			return b.String() + "…"
		}
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}

// writeJSONLine writes an answer in one line of visible characters: JSON allows
// characters that a terminal would obey.
func writeJSONLine(w io.Writer, raw []byte) error {
	var compact, line bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return fmt.Errorf("the server's answer is not JSON: %w", err)
	}
	for _, r := range compact.String() {
		if unicode.IsPrint(r) {
			line.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&line, `\u%04x`, unit)
		}
	}
	line.WriteByte('\n')
	_, err := w.Write(line.Bytes())
	return err
}

// table writes rows in columns. Its cells are printable.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, head ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

// row adds a row of any texts.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = printable(cell, cellWidth)
		if cells[i] == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t")) // flush reports errors
}

func (t *table) flush() error { return t.w.Flush() }

// when is a time for people; "" for nil.
func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// ago is the rounded time since t; "" for nil.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return rounded(now.Sub(*t))
}

// rounded is a duration for people.
func rounded(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// count is a number with its noun, such as "1 room" and "2 rooms".
func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// writeJSONValue encodes v and writes it as [writeJSONLine] does.
func writeJSONValue(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeJSONLine(w, raw)
}

// discard is a logger that drops everything.
func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
