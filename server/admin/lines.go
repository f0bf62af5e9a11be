package admin

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// The bounds of what is kept of the log.
const (
	maxLines = 1000
	maxLine  = 2048 // bytes of its message, and of its attributes
)

// Line is a line of the log.
type Line struct {
	Seq     uint64 // grows by one
	At      time.Time
	Level   slog.Level
	Message string
	Attrs   string // key=value, quoted where needed
}

// Lines keeps the newest lines of the log, in memory. Its methods may be called concurrently.
type Lines struct {
	mu   sync.Mutex // guards the following
	ring []Line     // from next on the oldest, once it is full
	next int
	seq  uint64        // of the newest
	news chan struct{} // closed when the next line comes; nil = nobody waits
}

// Handler hands records to next, and keeps those that next wants.
func (l *Lines) Handler(next slog.Handler) slog.Handler {
	return &keeper{lines: l, next: next}
}

// keeper is the handler of [Lines.Handler]. It is used as [slog.Handler] says.
type keeper struct {
	lines *Lines
	next  slog.Handler
	attrs string   // of WithAttrs, as text
	group []string // of WithGroup
}

func (k *keeper) Enabled(ctx context.Context, level slog.Level) bool {
	return k.next.Enabled(ctx, level)
}

func (k *keeper) Handle(ctx context.Context, r slog.Record) error {
	k.lines.add(Line{At: r.Time, Level: r.Level, Message: Clip(r.Message, maxLine), Attrs: Clip(k.text(ctx, &r), maxLine)})
	return k.next.Handle(ctx, r)
}

func (k *keeper) WithAttrs(attrs []slog.Attr) slog.Handler {
	var r slog.Record
	r.AddAttrs(attrs...)
	return &keeper{k.lines, k.next.WithAttrs(attrs), Clip(k.text(context.Background(), &r), maxLine), k.group}
}

func (k *keeper) WithGroup(name string) slog.Handler {
	if name == "" {
		return k
	}
	return &keeper{k.lines, k.next.WithGroup(name), k.attrs, append(slices.Clip(k.group), name)}
}

// text is the attributes of the keeper and of r. No lock is held, because values format
// themselves.
func (k *keeper) text(ctx context.Context, r *slog.Record) string {
	var text bytes.Buffer
	h := slog.Handler(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{} // a line has them apart
		}
		return a
	}}))
	for _, name := range k.group {
		h = h.WithGroup(name)
	}
	_ = h.Handle(ctx, *r) // a buffer takes everything
	return strings.TrimSpace(k.attrs + " " + strings.TrimSpace(text.String()))
}

// Lines is what keeps the lines.
func (k *keeper) Lines() *Lines { return k.lines }

// add keeps a line, to which it gives the next seq.
func (l *Lines) add(one Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	one.Seq = l.seq
	if len(l.ring) < maxLines {
		l.ring = append(l.ring, one)
	} else {
		l.ring[l.next] = one
		l.next = (l.next + 1) % maxLines
	}
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

// After is the lines after a seq that have at least that level, the oldest first; newest is
// the seq of the newest line of any level, and news is closed when there is a newer one.
func (l *Lines) After(seq uint64, least slog.Level) (lines []Line, newest uint64, news <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.ring {
		one := &l.ring[(l.next+i)%len(l.ring)]
		if one.Seq > seq && one.Level >= least {
			lines = append(lines, *one)
		}
	}
	if l.news == nil {
		l.news = make(chan struct{})
	}
	return lines, l.seq, l.news
}
