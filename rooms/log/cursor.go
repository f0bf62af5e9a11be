package log

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Cursor is a reader's place in the log: the seq of the last event read, and that event's
// epoch. After a restore to an earlier state the log gives seqs out again, in a higher
// epoch, so only the two together name one event for ever.
type Cursor struct {
	Seq   int64
	Epoch int64 // 0 = not known
}

// String formats the cursor for [ParseCursor]: SEQ-EPOCH, or SEQ if the epoch is not
// known.
func (c Cursor) String() string {
	if c.Epoch == 0 {
		return strconv.FormatInt(c.Seq, 10)
	}
	return fmt.Sprintf("%d-%d", c.Seq, c.Epoch)
}

// ParseCursor reads SEQ or SEQ-EPOCH; neither is negative.
func ParseCursor(s string) (Cursor, error) {
	seq, epoch, both := strings.Cut(s, "-")
	c := Cursor{}
	var err error
	if c.Seq, err = strconv.ParseInt(seq, 10, 64); err == nil && both {
		c.Epoch, err = strconv.ParseInt(epoch, 10, 64)
	}
	if err != nil || c.Seq < 0 || c.Epoch < 0 {
		return Cursor{}, fmt.Errorf("%.40q is not how far a reader got: SEQ or SEQ-EPOCH", s)
	}
	return c, nil
}

// epochAt is the epoch of the event with that seq; 0 if the event is gone.
func (r *Reader) epochAt(ctx context.Context, seq int64) (int64, error) {
	events, err := r.Store.Events(ctx, Query{After: seq - 1, Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("read event %d: %w", seq, err)
	}
	if len(events) == 0 || events[0].Seq != seq {
		return 0, nil
	}
	return events[0].Epoch, nil
}

// shared is the newest seq that the log has in common with a reader at c. That is c's own
// seq, unless a restore dropped events that the reader saw. Where events are pruned this
// cannot be told.
func (r *Reader) shared(ctx context.Context, c Cursor, oldest, newest int64) (int64, error) {
	if c.Seq == 0 || c.Epoch == 0 || c.Seq < oldest {
		return min(c.Seq, newest), nil
	}
	if c.Seq <= newest {
		epoch, err := r.epochAt(ctx, c.Seq)
		if err != nil || epoch == c.Epoch {
			return c.Seq, err
		}
	}
	// Epochs never fall along the log. Events with a higher epoch than the reader's were
	// written after the restore.
	end := min(newest, c.Seq-1)
	var failed error
	n := sort.Search(int(max(end-oldest+1, 0)), func(i int) bool {
		epoch, err := r.epochAt(ctx, oldest+int64(i))
		if err != nil {
			failed = err
		}
		return epoch > c.Epoch
	})
	return max(oldest+int64(n)-1, 0), failed
}
