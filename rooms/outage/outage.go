// Package outage tells of failures that last.
package outage

import (
	"log/slog"
	"time"
)

// reminder is how often the log repeats that an outage lasts.
const reminder = time.Minute

// Log tells the program's log of a failure that is tried again and again: when it begins,
// once a minute while it lasts, and when it is over. It belongs to one goroutine.
// The zero value is ready for use.
type Log struct {
	since, told time.Time // zero = there is none
}

// Failed logs err, unless that was done within the last minute.
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

// Over logs what works again, if it did not.
func (o *Log) Over(log *slog.Logger, what string) {
	if o.since.IsZero() {
		return
	}
	log.Info(what, "after", time.Since(o.since).Round(time.Second))
	*o = Log{}
}
