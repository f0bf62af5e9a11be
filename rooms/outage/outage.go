// Package outage logs failures that last.
package outage

import (
	"log/slog"
	"time"
)

// reminder is how often the log repeats that a failure goes on.
const reminder = time.Minute

// Log logs a failure that is tried again and again: when it begins, once a minute while
// it lasts, and when it is over. It belongs to one goroutine. The zero value is ready for
// use.
type Log struct {
	since, told time.Time // zero = no failure goes on
}

// Failed logs err, unless the failure was logged within the last minute.
func (o *Log) Failed(log *slog.Logger, what string, err error) {
	now := time.Now()
	switch {
	case o.since.IsZero():
		o.since = now
		log.Error(what, "error", err)
	case now.Sub(o.told) < reminder:
		return
	default:
		log.Error(what, "error", err, "for", now.Sub(o.since).Round(time.Second))
	}
	o.told = now
}

// Over logs what, if a failure went on.
func (o *Log) Over(log *slog.Logger, what string) {
	if o.since.IsZero() {
		return
	}
	log.Info(what, "after", time.Since(o.since).Round(time.Second))
	*o = Log{}
}
