package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

var (
	// ErrLost: another took the lease, or it could not be renewed for too long. Nothing
	// is written any more, neither here nor on the replica.
	ErrLost = errors.New("the lease on the replica is lost")
	// ErrUnsure: the lease was not renewed in time, so another may have taken it. Nothing
	// is written until its holder is known.
	ErrUnsure = errors.New("the lease on the replica could not be renewed")
)

// ErrRemoved: the lease is lost because owner.json is gone from the replica. It does not
// mean that another has the lease.
var ErrRemoved = errors.New(ownerName + " was removed from the replica")

// HeldError: another process holds the lease, and is alive.
type HeldError struct {
	Owner string // host and process
	Epoch int64
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("the replica is in use by %s (epoch %d): stop that one first, or use another replica", e.Owner, e.Epoch)
}

// clockGrain is the largest error of a difference of two times of S3's clocks, which tell
// whole seconds.
const clockGrain = time.Second

// LeaseState is the state of this process's lease.
type LeaseState string

// The states of the lease.
const (
	LeaseNone     LeaseState = "none"     // not yet taken
	LeaseHeld     LeaseState = "held"     // ours
	LeaseUnsure   LeaseState = "unsure"   // not renewed in time: nothing may be written
	LeaseLost     LeaseState = "lost"     // for good
	LeaseReleased LeaseState = "released" // given up by Close
)

// renewals is the state of the renewals, as last logged.
type renewals int

const (
	renewing renewals = iota
	failing           // failed, but not yet late
	stopped           // late: writing has stopped
)

// lease is this process's lease in owner.json. take takes it, run's goroutine renews it,
// and release gives it up.
type lease struct {
	place  place
	log    *slog.Logger
	ttl    time.Duration
	wait   time.Duration // patience
	onLost func(error)
	cancel context.CancelFunc // ends run
	ended  chan struct{}      // closed when run returns; nil while it does not run

	told renewals // of run: what was logged last

	writing sync.Mutex // held while owner.json is renewed or raised: for one request, at most for attempt

	mu      sync.Mutex // guards the following
	owner   owner      // as this process wrote it last
	version string     // of owner.json
	begun   bool       // owner.Begun is to be written
	renewed time.Time  // when the last successful write began, monotonic
	wall    time.Time  // the same, by the wall clock
	state   LeaseState // LeaseHeld also while unsure
	failing error      // the error of the last renewal
	lost    error      // why the lease is lost
}

// margin is how long before the end of the lease its holder stops writing, so that
// requests under way end in time.
func (l *lease) margin() time.Duration { return l.ttl / 6 }

// check fails if the lease does not permit writing.
func (l *lease) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checkLocked()
}

func (l *lease) checkLocked() error {
	switch {
	case l.state == LeaseLost:
		return l.lost
	case l.state != LeaseHeld:
		return fmt.Errorf("the lease on the replica is not held: it is %s", l.state)
	case l.age() >= l.ttl-l.margin():
		if l.failing == nil {
			return ErrUnsure
		}
		return fmt.Errorf("%w: %w", ErrUnsure, l.failing)
	}
	return nil
}

// age is the time since the last renewal, by the clock that shows more. The monotonic
// clock stops while a machine is suspended, but others may take the lease then. A wall
// clock that is set forward stops the writes until the next renewal.
func (l *lease) age() time.Duration {
	return max(time.Since(l.renewed), time.Now().Round(0).Sub(l.wall))
}

func (l *lease) epoch() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owner.Epoch
}

// take waits until nobody else holds the lease and takes it as self. epoch gives the
// epoch for the previous holder (nil = the first). take does not wait for a holder that
// renews the lease: it fails with a [HeldError].
func (l *lease) take(ctx context.Context, self owner, epoch func(before *owner) int64) (before *owner, err error) {
	var seen string // the version of the holder that is waited for
	for {
		before, version, wait, err := l.look(ctx, self.Machine)
		if err != nil {
			return nil, err
		}
		if wait == 0 {
			o := self
			if before != nil {
				o.Replica, o.Begun = before.Replica, before.Begun
			}
			o.Epoch = epoch(before)
			err := l.write(ctx, l.prolonged(o), version)
			if errors.Is(err, errChanged) {
				continue // another process was faster: look at its lease
			}
			if err != nil {
				return nil, fmt.Errorf("take the lease: %w", err)
			}
			return before, l.probe(ctx)
		}
		if seen != "" && seen != version {
			return nil, &HeldError{before.Owner, before.Epoch}
		}
		if seen == "" {
			l.log.Info("waiting for the lease on the replica to run out", "owner", before.Owner, "epoch", before.Epoch, "for", wait)
		}
		seen = version
		select {
		case <-time.After(min(wait, l.ttl/6+100*time.Millisecond)):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lease of %s to run out: %w", before.Owner, ctx.Err())
		}
	}
}

func (l *lease) probe(ctx context.Context) error {
	o, _ := l.current()
	b, err := o.encode()
	if err != nil {
		return err
	}
	return l.place.probe(ctx, b)
}

// look reads the lease's holder, and after what time the lease can be taken; 0 = now.
func (l *lease) look(ctx context.Context, machine string) (*owner, string, time.Duration, error) {
	b, version, age, err := l.place.readOwner(ctx)
	if errors.Is(err, errNoOwner) {
		return nil, "", 0, nil
	}
	if err != nil {
		return nil, "", 0, err
	}
	o, err := decodeOwner(b)
	if err != nil {
		return nil, "", 0, err
	}
	if _, exclusive := l.place.(*directory); exclusive || o.Expires == 0 || o.Machine == machine {
		return &o, version, 0, nil
	}
	if age < 0 { // the server's answer has no time, so our clock decides
		age = max(0, time.Until(time.UnixMilli(o.Expires)))
		return &o, version, age, nil
	}
	return &o, version, max(0, o.ttl()+clockGrain-age), nil
}

// prolonged is o with a new expiry.
func (l *lease) prolonged(o owner) owner {
	o.TTLMs = l.ttl.Milliseconds()
	o.Expires = time.Now().Add(l.ttl).UnixMilli()
	return o
}

// write replaces the owner.json of that version by o, and notes the outcome.
func (l *lease) write(ctx context.Context, o owner, version string) error {
	l.mu.Lock()
	o.Begun = o.Begun || l.begun
	l.mu.Unlock()
	o.Serial++
	b, err := o.encode()
	if err != nil {
		return err
	}
	began := time.Now()
	version, err = l.place.writeOwner(ctx, b, version)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failing = err
		return err
	}
	l.owner, l.version, l.failing = o, version, nil
	l.renewed, l.wall = began, began.Round(0)
	l.state = LeaseHeld
	if o.Expires == 0 {
		l.state = LeaseReleased
	}
	return nil
}

// begin notes that the generation has begun. The next renewal, or the release, writes
// that down. If neither comes, the generation itself shows it.
func (l *lease) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = true
}

// attempt bounds one renewal, and so how long raise has to wait for one.
func (l *lease) attempt() time.Duration { return max(l.ttl/6, 500*time.Millisecond) }

// raise gives the held lease a new epoch. While the lease is renewed in the background it
// takes no longer than a renewal, because renewals wait for it.
func (l *lease) raise(ctx context.Context, epoch int64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.ended != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.attempt(), errors.New("the replica does not answer in time"))
		defer cancel()
	}
	o, version := l.current()
	o.Epoch = epoch
	if err := l.write(ctx, l.prolonged(o), version); err != nil {
		return fmt.Errorf("take the lease with a new epoch: %w", err)
	}
	return nil
}

func (l *lease) current() (owner, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owner, l.version
}

// renew writes owner.json again. If the answer to a successful write is lost, the retry
// fails as if another had written; so renew looks at owner.json before it gives up. A
// removed owner.json is written again while the lease has not run out: if another machine
// writes one first, that one stays. After the lease has run out another may have held it
// and been removed, so it is lost.
//
// While a write whose answer was lost is still under way, S3 refuses every other one, and it
// may take effect between two steps here. So the lease is lost only if owner.json says so.
func (l *lease) renew(ctx context.Context) error {
	o, version := l.current()
	runs := l.check() == nil
	err := l.write(ctx, l.prolonged(o), version)
	if !errors.Is(err, errChanged) {
		return err
	}
	now, version, err := l.reread(ctx, o.Instance)
	if errors.Is(err, ErrRemoved) && runs {
		l.log.Warn("the lease was removed from the replica: writing it again", "file", ownerName)
		now, version, err = o, "", nil
	}
	if err != nil {
		return err
	}
	err = l.write(ctx, l.prolonged(now), version)
	if errors.Is(err, errChanged) {
		now, version, changed := l.reread(ctx, o.Instance)
		if changed != nil && !(errors.Is(changed, ErrRemoved) && runs) {
			return changed
		}
		if changed == nil { // a write whose answer was lost has taken effect: the next one replaces it
			l.mu.Lock()
			l.owner, l.version = now, version
			l.mu.Unlock()
		}
		return errors.New("a write of the lease is still under way") // no errChanged: it is ours
	}
	return err
}

// reread reads owner.json if that instance wrote it; else it fails with [errChanged].
func (l *lease) reread(ctx context.Context, instance string) (owner, string, error) {
	b, version, _, err := l.place.readOwner(ctx)
	if errors.Is(err, errNoOwner) {
		return owner{}, "", fmt.Errorf("%w: %w", errChanged, ErrRemoved)
	}
	if err != nil {
		return owner{}, "", err
	}
	now, err := decodeOwner(b)
	if err != nil {
		return owner{}, "", fmt.Errorf("%w: %w", errChanged, err)
	}
	if now.Instance != instance {
		return owner{}, "", fmt.Errorf("%w: %s holds it with epoch %d", errChanged, now.Owner, now.Epoch)
	}
	return now, version, nil
}

// start starts the goroutine that renews the lease.
func (l *lease) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.ended = cancel, make(chan struct{})
	go l.run(ctx)
}

func (l *lease) run(ctx context.Context) {
	defer close(l.ended)
	for {
		timer := time.NewTimer(l.pause())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := l.renewInTime(ctx); err != nil && ctx.Err() == nil {
			l.lose(err)
			l.onLost(err)
			return
		}
	}
}

// pause is the time until the next renewal, or until the lease is given up.
func (l *lease) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing == nil {
		return time.Until(l.renewed.Add(l.ttl / 3))
	}
	return min(l.ttl/12, max(0, time.Until(l.renewed.Add(l.ttl-l.margin()+l.wait))))
}

// renewInTime renews the lease; an error means that it is lost.
func (l *lease) renewInTime(ctx context.Context) error {
	l.writing.Lock()
	attempt, cancel := context.WithTimeout(ctx, l.attempt())
	err := l.renew(attempt)
	cancel()
	l.writing.Unlock()
	if errors.Is(err, errChanged) {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	l.mu.Lock()
	l.failing = err
	late := time.Since(l.renewed) - (l.ttl - l.margin())
	l.mu.Unlock()
	if err != nil && late >= l.wait {
		return fmt.Errorf("%w: it could not be renewed for %v: %w", ErrLost, l.ttl-l.margin()+l.wait, err)
	}
	l.tell(err, late >= 0)
	return nil
}

// tell logs a change of how the renewals go.
func (l *lease) tell(err error, unsure bool) {
	now := renewing
	switch {
	case err != nil && unsure:
		now = stopped
	case err != nil:
		now = failing
	}
	if now == l.told {
		return
	}
	l.told = now
	switch now {
	case renewing:
		l.log.Info("the lease on the replica is renewed again")
	case failing:
		l.log.Warn("the lease on the replica cannot be renewed, trying again", "error", err)
	case stopped:
		l.log.Error("the lease on the replica was not renewed in time: nothing is written until it is", "error", err)
	}
}

func (l *lease) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.lost = LeaseLost, err
}

// stop ends the renewals and waits for their goroutine.
func (l *lease) stop() {
	if l.ended == nil {
		return
	}
	l.cancel()
	<-l.ended
}

// release gives the lease up, so that others can take it at once. run must have ended.
func (l *lease) release(ctx context.Context) error {
	if err := l.check(); err != nil {
		return nil // it is not ours, or runs out by itself
	}
	o, version := l.current()
	for tries := 1; ; tries++ {
		o.Expires = 0
		err := l.write(ctx, o, version)
		if errors.Is(err, errChanged) && tries < 3 {
			// The last renewal was cut off. It may have succeeded before this, or between two of
			// these steps.
			if o, version, err = l.reread(ctx, o.Instance); err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("release the lease: %w", err)
		}
		return nil
	}
}

// status is the lease's part of Status.
func (l *lease) status() (LeaseState, time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == LeaseHeld && l.checkLocked() != nil {
		return LeaseUnsure, l.renewed.Add(l.ttl), l.failing
	}
	return l.state, l.renewed.Add(l.ttl), l.failing
}
