package rooms

import (
	"log/slog"
	"time"
)

// outageReminder is how often the log repeats that an outage lasts.
const outageReminder = time.Minute

// Outage tells the log of a failure that is tried again and again: when it begins,
// once a minute while it lasts, and when it is over. It belongs to one goroutine.
// The zero value is ready for use.
type Outage struct {
	since, told time.Time // zero = there is none
}

// Failed logs err, unless that was done within the last minute.
func (o *Outage) Failed(log *slog.Logger, what string, err error) {
	now := time.Now()
	switch {
	case o.since.IsZero():
		o.since = now
		log.Error(what, "error", err)
	case now.Sub(o.told) < outageReminder:
		return
	default:
		log.Error(what, "error", err, "for", now.Sub(o.since).Round(time.Second))
	}
	o.told = now
}

// Over logs what works again, if it did not.
func (o *Outage) Over(log *slog.Logger, what string) {
	if o.since.IsZero() {
		return
	}
	log.Info(what, "after", time.Since(o.since).Round(time.Second))
	*o = Outage{}
}
