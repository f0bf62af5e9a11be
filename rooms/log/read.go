package log

import (
	"context"
	"fmt"
	"time"
)

// How many events a page of a [Reader] has.
const (
	defaultPage = 100
	maxPage     = 1000
)

// Reader is the pulling side of the event log: for receivers that webhooks cannot reach,
// and for those that catch up. It has no state, and its methods may be called
// concurrently.
type Reader struct {
	Store Store
}

// Page is a part of the log.
type Page struct {
	Events []Event
	// Next is the cursor for the next page: the last event that was looked at, whether
	// the query wanted it or not.
	Next Cursor
	// Oldest and Newest are the seqs of the events that can be read.
	Oldest, Newest int64
}

// PrunedError tells that events after the requested seq are pruned, so that the answer
// would have a gap.
type PrunedError struct {
	After  int64 // as asked
	Oldest int64 // the first event that can still be read
}

func (e *PrunedError) Error() string {
	return fmt.Sprintf("events after seq %d are pruned, the oldest left is %d: "+
		"read the present state, then continue after %d", e.After, e.Oldest, e.Oldest-1)
}

// AheadError tells that the reader has seen events that the log does not have: the
// database was restored to an earlier state, and gives their seqs out again in a higher
// epoch.
type AheadError struct {
	After  Cursor // as asked
	Newest int64  // the newest event that the log and the reader have in common
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("what you read up to %v is not all in the log, which has it up to %d: the database was restored to an earlier state; "+
		"read the present state, then continue after %d", e.After, e.Newest, e.Newest)
}

// Oldest is the seq to read after to get all that is left of the log.
func (r *Reader) Oldest(ctx context.Context) (int64, error) {
	oldest, _, err := r.Store.SeqRange(ctx)
	return max(oldest-1, 0), err
}

// Newest is the seq to read after to get only events that are written from now on.
func (r *Reader) Newest(ctx context.Context) (int64, error) {
	_, newest, err := r.Store.SeqRange(ctx)
	return newest, err
}

// Page returns up to q.Limit events after q.After; no events are not an error. It fails
// with a [*PrunedError] or an [*AheadError] if the answer would have a gap.
func (r *Reader) Page(ctx context.Context, q Query) (Page, error) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	q.Limit = min(q.Limit, maxPage)
	// newest is read before the events, so that Next never skips an event that is written
	// meanwhile. oldest is read after them, so that no pruning is missed.
	oldest, newest, err := r.Store.SeqRange(ctx)
	if err != nil {
		return Page{}, fmt.Errorf("read the log's range: %w", err)
	}
	after := Cursor{Seq: q.After, Epoch: q.Epoch}
	shared, err := r.shared(ctx, after, oldest, newest)
	if err != nil {
		return Page{}, err
	}
	if shared < q.After {
		return Page{}, &AheadError{After: after, Newest: shared}
	}
	p := Page{Next: Cursor{Seq: newest}, Newest: newest}
	if p.Events, err = r.Store.Events(ctx, q); err != nil {
		return Page{}, fmt.Errorf("read events: %w", err)
	}
	if p.Oldest, _, err = r.Store.SeqRange(ctx); err != nil {
		return Page{}, fmt.Errorf("read the log's range: %w", err)
	}
	if q.After+1 < p.Oldest {
		return Page{}, &PrunedError{After: q.After, Oldest: p.Oldest}
	}
	n := len(p.Events)
	if n > 0 {
		last := &p.Events[n-1]
		p.Newest = max(p.Newest, last.Seq)
		if n == q.Limit || last.Seq >= p.Next.Seq {
			p.Next = Cursor{Seq: last.Seq, Epoch: last.Epoch}
			return p, nil
		}
	}
	if p.Next.Seq == q.After && q.Epoch != 0 {
		p.Next.Epoch = q.Epoch
		return p, nil
	}
	p.Next.Epoch, err = r.epochAt(ctx, p.Next.Seq)
	return p, err
}

// PageBefore returns up to q.Limit of the newest events before q.Before, the newest first.
// Next is the end of the log, from which a reader goes on forwards. older is the seq before
// which there may be more; 0 = there are none.
func (r *Reader) PageBefore(ctx context.Context, q Query) (p Page, older int64, err error) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	q.Limit = min(q.Limit, maxPage)
	q.After = 0
	// The range is read before the events: Next must not skip one that is written meanwhile.
	p.Oldest, p.Newest, err = r.Store.SeqRange(ctx)
	if err != nil {
		return Page{}, 0, fmt.Errorf("read the log's range: %w", err)
	}
	q.Before = min(q.Before, p.Newest+1)
	if p.Events, err = r.Store.Events(ctx, q); err != nil {
		return Page{}, 0, fmt.Errorf("read events: %w", err)
	}
	if n := len(p.Events); n == q.Limit && p.Events[n-1].Seq > p.Oldest {
		older = p.Events[n-1].Seq
	}
	p.Next.Seq = p.Newest
	p.Next.Epoch, err = r.epochAt(ctx, p.Newest)
	return p, older, err
}

// Sink takes the events of a stream. Its functions are called from one goroutine; an
// error from one ends the stream.
type Sink struct {
	Event func(Event) error
	// CaughtUp, if set, is called each time the log was read to its end, with the cursor
	// of that end. The cursor also moves over events that the query does not want. It may
	// be called often.
	CaughtUp func(Cursor) error
	// Every, if not 0, is the longest time between two calls of CaughtUp while no events
	// come.
	Every time.Duration
	// Gather, if not 0, is the shortest time between two looks at the log: what is written
	// meanwhile is read together, because a look costs more than the events that it finds.
	Gather time.Duration
}

// Stream gives sink each event after q.After, also those that are written later, until
// ctx ends or sink fails, and returns that error. Like [Reader.Page] it fails when the
// reader falls behind what is pruned.
func (r *Reader) Stream(ctx context.Context, q Query, sink Sink) error {
	tokens, cancel := r.Store.Watch() // before the first look: nothing falls between
	defer cancel()
	for {
		looked := time.Now()
		p, err := r.Page(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range p.Events {
			if err := sink.Event(e); err != nil {
				return err
			}
		}
		q.After, q.Epoch = p.Next.Seq, p.Next.Epoch
		if p.Next.Seq < p.Newest {
			continue // the page was full
		}
		// What was written since the look has left a token.
		if err := sink.caughtUp(p.Next); err != nil {
			return err
		}
		if err := pause(ctx, sink.Gather-time.Since(looked)); err != nil {
			return err
		}
		if err := sink.wait(ctx, tokens, p.Next); err != nil {
			return err
		}
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// wait returns when there is a token. Meanwhile it calls CaughtUp at intervals.
func (s *Sink) wait(ctx context.Context, tokens <-chan struct{}, at Cursor) error {
	var tick <-chan time.Time
	if s.Every > 0 {
		t := time.NewTicker(s.Every)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tokens:
			return nil
		case <-tick:
			if err := s.caughtUp(at); err != nil {
				return err
			}
		}
	}
}

func (s *Sink) caughtUp(at Cursor) error {
	if s.CaughtUp == nil {
		return nil
	}
	return s.CaughtUp(at)
}
