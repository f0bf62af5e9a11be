package rooms

import (
	"context"
	"time"
)

// Each change that a client makes is written and announced. A client is held to a pace
// that the disk and the other participants can follow.
const (
	paceInterval   = 20 * time.Millisecond // between two changes, in the long run
	paceBurst      = 100                   // changes that may come at once
	mostUnwritten  = 200                   // rows of a room that may wait for the disk before its clients have to
	longestPaceFor = time.Second           // the longest wait for a failing disk: calls go on
)

// Pace returns when the client may send its next message. That is at once, unless the
// client exceeds its pace or its room has more to write than the disk takes. The reader
// of the client's messages calls it after each message, so that the client waits and no
// queue grows. It returns early when ctx ends.
func (c *Client) Pace(ctx context.Context) {
	if ahead := time.Until(time.Unix(0, c.paid.Load())) - paceBurst*paceInterval; ahead > 0 {
		wait(ctx, nil, ahead)
	}
	r := c.at.Load().room
	if r.unwritten.Load() <= mostUnwritten {
		return
	}
	released := make(chan struct{})
	if r.post(func() { r.paced = append(r.paced, released) }) {
		wait(ctx, released, longestPaceFor)
	}
}

// wait waits for c, but not longer than d nor than ctx.
func wait(ctx context.Context, c <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-c:
	}
}

// pay counts a change of the client's against its pace. paid is the time at which a client at full
// pace would have made that many changes. Only the room's goroutine moves it.
func (c *Client) pay(now time.Time) { c.payPart(now, paceInterval) }

// payPart counts what is less than a change: the time that it takes of paceInterval.
func (c *Client) payPart(now time.Time, part time.Duration) {
	c.paid.Store(max(c.paid.Load(), now.UnixNano()) + int64(part))
}

// releasePaced publishes how much waits for the disk, and releases the waiting clients
// once that is little enough.
func (r *Room) releasePaced() {
	n := r.pendingRows
	for _, c := range r.behind {
		n += c.rows()
	}
	if r.backlog != nil {
		n += r.backlog.rows()
	}
	r.unwritten.Store(int64(n))
	if n <= mostUnwritten || r.gone {
		r.letGo()
	}
}

// rows is the number of rows that c writes.
func (c *Change) rows() int {
	return 1 + len(c.Sessions) + len(c.Dispatches) + len(c.Jobs) + len(c.Blobs) + len(c.Hosts) + len(c.Chat) + len(c.Events)
}

func (r *Room) letGo() {
	for _, c := range r.paced {
		close(c)
	}
	r.paced = nil
}
