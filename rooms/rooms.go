package rooms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/goroutines"
	"parlor/rooms/guid"
	"parlor/rooms/outage"
)

// Limits bound what clients and API callers may store. 0 = unlimited.
type Limits struct {
	MaxMetadata        int // bytes, of a room or participant
	MaxAttributes      int // bytes of keys and values together
	MaxRoomName        int // bytes
	MaxIdentity        int // bytes
	MaxParticipantName int // bytes
	MaxCustomEncoding  int // bytes, of the name of a data track's encoding
	MaxBlobKey         int // bytes, of the key of a data blob
	MaxBlobs           int // bytes, of all data blobs of a participant, their keys counted in
	// SubscribedVideo and SubscribedAudio are how many tracks a participant may be subscribed
	// to at a time.
	SubscribedVideo, SubscribedAudio int
	// BlobRate is how many bytes of data blobs a participant may store a minute in the long
	// run; those of a room, 16 times as much.
	BlobRate int
}

// Config is what the domain needs to run.
type Config struct {
	Store Store
	// Moderation keeps bans and revocations; nil = there are none.
	Moderation Moderation
	Log        *slog.Logger

	// AutoCreate lets a join create its room without the roomCreate grant.
	AutoCreate bool
	// EmptyTimeout, DepartureTimeout and MaxParticipants are the defaults of a new room.
	EmptyTimeout     Timeout
	DepartureTimeout Timeout
	MaxParticipants  uint32
	// Room is the rest of a new room's defaults.
	Room RoomConfig
	// RejectDuplicates refuses a join while a connected client has the same identity.
	// Without it the newcomer replaces that client.
	RejectDuplicates bool
	// NoDataTracks refuses to publish data tracks.
	NoDataTracks bool
	// FullRoomInEvents: events of tracks tell of the whole room, and not of its name and SID
	// alone.
	FullRoomInEvents bool
	// DataBlobs lets participants store blobs for others to fetch.
	DataBlobs bool
	// EnableRemoteUnmute lets the API unmute a participant's track.
	EnableRemoteUnmute bool
	Limits             Limits
	// RestartGrace is how long after a start participants are expected back before they
	// count as gone.
	RestartGrace time.Duration
	// Wall is the wall clock; nil is the system's. It may be set.
	Wall func() time.Time
	// Elapsed counts the time that passes, also while the machine is suspended, and is never
	// set. Deadlines are judged by it. The counts of processes with the same Boot are one;
	// with "" each process has its own. nil counts from when the registry was made.
	Elapsed func() time.Duration
	Boot    string
	// Agents configures the dispatch of agents; nil = no agents are dispatched.
	Agents *AgentsConfig
	// SignalGrace is how long a participant stays that has media and no signalling; 0 =
	// [DefaultSignalGrace].
	SignalGrace time.Duration
}

// Rooms is the registry of live rooms and the reaper of empty ones. Its methods may be
// called concurrently. The methods of the room API take and return LiveKit's messages,
// and fail with an [Error].
type Rooms struct {
	cfg Config
	log *slog.Logger

	began time.Time // when this was made
	clock *steady

	stopping atomic.Bool
	loops    goroutines.Group // every live room's goroutine, added to under mu, and the reaper
	quit     context.CancelFunc
	life     context.Context // ends when Close is called; the loops' own lifetime
	noted    atomic.Int64    // the earliest deadline reported to the reaper and not yet seen by it; 0 = none
	wake     chan struct{}   // capacity 1; wakes the reaper

	present, expectedBack atomic.Int64  // over all live rooms, for Stats
	dataRefused, failures atomic.Uint64 // for Stats too

	dataTrackMalformed, dataTrackUnknown atomic.Uint64 // packets, as well
	scores, scoreSum                     atomic.Uint64 // of connections, in units of 1/scoreUnit, as well

	blobs struct{ off, invalid, limit, rate, missing, unwritten atomic.Uint64 } // requests that were refused, as well

	chatUnkept [chatFates]atomic.Uint64 // messages, as well

	blobRates blobRates
	divisions divisions
	turns     inTurn

	mu     sync.Mutex // guards the following
	closed bool       // Close was called: no loop may begin
	live   map[string]*Room
	// failed holds the recent panics of rooms, by name.
	failed map[string]failure
}

// New makes a registry; nothing runs before Open.
func New(cfg Config) *Rooms {
	if cfg.EmptyTimeout == 0 {
		cfg.EmptyTimeout = DefaultEmptyTimeout
	}
	if cfg.DepartureTimeout == 0 {
		cfg.DepartureTimeout = DefaultDepartureTimeout
	}
	if cfg.SignalGrace == 0 {
		cfg.SignalGrace = DefaultSignalGrace
	}
	life, quit := context.WithCancel(context.Background())
	return &Rooms{
		began:     time.Now(),
		clock:     newSteady(cfg.Wall, cfg.Elapsed, cfg.Boot),
		cfg:       cfg,
		log:       cfg.Log,
		live:      make(map[string]*Room),
		failed:    make(map[string]failure),
		wake:      make(chan struct{}, 1),
		life:      life,
		quit:      quit,
		divisions: divisions{due: make(map[string]time.Time), busy: make(map[string]bool), wake: make(chan struct{}, 1), moving: make(map[string]*turn)},
		turns:     newInTurn(),
	}
}

// Open makes the rooms live that were occupied when the last process ended: their
// participants are expected back for the restart grace. Then it starts the reaper, which
// also ends what fell due while no process ran, and what looks after divided rooms.
func (rs *Rooms) Open(ctx context.Context) error {
	noted, err := rs.openClock(ctx)
	if err != nil {
		return fmt.Errorf("go on from the clock of the database: %w", err)
	}
	occupied, err := rs.cfg.Store.Occupied(ctx)
	if err != nil {
		return fmt.Errorf("read occupied rooms: %w", err)
	}
	for _, rec := range occupied {
		_, _ = rs.room(rec.Name) // none has failed yet
		if main := rec.Config.Main; main != nil {
			rs.lookAfter(main.Name, 0)
			rs.loops.Go(func() { rs.endOrphan(&rec) })
		} else if rec.Config.Division != nil {
			rs.lookAfter(rec.Name, 0)
		} else if rec.Config.Unreadable != "" && rec.EmptySinceMs != 0 && rec.ExpiresMs == 0 {
			rs.loops.Go(func() { rs.setLostDeadline(&rec) })
		}
	}
	rs.loops.Go(func() { rs.watchClock(noted) })
	rs.loops.Go(rs.reap)
	rs.loops.Go(rs.watchDivisions)
	return nil
}

// setLostDeadline gives an empty room its deadline. It had none while its people were in
// breakout rooms, of which it does not know any more.
func (rs *Rooms) setLostDeadline(rec *Record) {
	_, err := rs.edit(rs.life, rec.Name, func(now *Record) bool { return now.SID == rec.SID }, func(now *Record) { now.SetDeadline() })
	if err != nil && rs.life.Err() == nil {
		rs.log.Warn("cannot set the deadline of a room whose settings cannot be read", "room", rec.Name, "error", err)
	}
}

// Stop refuses new joins with [ErrStopping] and tells every client to reconnect:
// the process is about to be replaced. Rooms and sessions stay open.
func (rs *Rooms) Stop() {
	rs.stopping.Store(true)
	for _, r := range rs.all() {
		r.post(r.stop)
	}
}

// Close waits until every room has written what it had to write, or ctx ends. Sessions of
// participants stay open.
func (rs *Rooms) Close(ctx context.Context) error {
	rs.Stop()
	rs.mu.Lock()
	rs.closed = true
	rs.mu.Unlock()
	rs.quit()
	if err := rs.loops.Wait(ctx); err != nil { // the loops end once the store has answered
		return fmt.Errorf("rooms are still writing: %w", err)
	}
	return nil
}

func (rs *Rooms) all() []*Room {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	all := make([]*Room, 0, len(rs.live))
	for _, r := range rs.live {
		all = append(all, r)
	}
	return all
}

// Live returns the names of the live rooms: of all that are occupied, and of some others.
func (rs *Rooms) Live() []string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return slices.Collect(maps.Keys(rs.live))
}

// room returns the live room of that name, and makes it live if need be. It fails with
// [ErrFailed] while the name is refused because its room failed twice.
func (rs *Rooms) room(name string) (*Room, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.live[name]
	if r == nil {
		switch {
		case rs.closed:
			return nil, ErrStopping
		case rs.failed[name].refused:
			return nil, ErrFailed
		}
		r = newRoom(rs, name)
		rs.live[name] = r
		rs.loops.Go(r.loop)
	}
	return r, nil
}

// peek returns the live room of that name, nil if it is not live.
func (rs *Rooms) peek(name string) *Room {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.live[name]
}

// spawn runs f on a goroutine that Close waits for; false if that has begun.
func (rs *Rooms) spawn(f func()) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return false
	}
	rs.loops.Go(f)
	return true
}

// retire takes r out of the registry unless a letter came meanwhile.
func (rs *Rooms) retire(r *Room) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !r.mail.CloseIfEmpty() {
		return false
	}
	if rs.live[r.name] == r {
		delete(rs.live, r.name)
	}
	return true
}

// drop takes r out of the registry at once: its row has ended, and the name is free. The
// senders of letters in its mailbox are told to look the name up again.
func (rs *Rooms) drop(r *Room) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.mail.Close()
	if rs.live[r.name] == r {
		delete(rs.live, r.name)
	}
}

// answer is how a letter gives its sender the result, once.
type answer[T any] func(T, error)

// ask runs f on r's goroutine and waits for the answer. f may answer later, but must
// answer, unless the room fails ([ErrFailed]). ask does not end with a caller's context:
// what was asked may have happened already, and the store always answers.
func ask[T any](r *Room, f func(answer[T])) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	reply := func(v T, err error) { ch <- result{v, err} }
	var zero T
	ok := r.mail.Post(letter{
		run:     func() { f(reply) },
		retired: func() { reply(zero, errRetired) },
	})
	if !ok {
		return zero, errRetired
	}
	select {
	case res := <-ch:
		return res.v, res.err
	case <-r.failed:
	}
	select {
	case res := <-ch: // the answer came as the room failed
		return res.v, res.err
	default:
		return zero, ErrFailed
	}
}

// askName asks the live room of that name. If that room goes away first, it asks the
// next one.
func askName[T any](ctx context.Context, rs *Rooms, name string, f func(*Room, answer[T])) (T, error) {
	for {
		r, err := rs.room(name)
		if err != nil {
			var zero T
			return zero, err
		}
		v, err := ask(r, func(reply answer[T]) { f(r, reply) })
		if !errors.Is(err, errRetired) {
			return v, err
		}
		if err := ctx.Err(); err != nil {
			return v, err
		}
	}
}

// noteDeadline tells the reaper of a room's deadline that is on disk. It never blocks.
func (rs *Rooms) noteDeadline(r *Record) {
	ms := rs.Now().Deadline(r)
	if ms == 0 {
		return
	}
	for {
		old := rs.noted.Load()
		if old != 0 && old <= ms {
			return
		}
		if rs.noted.CompareAndSwap(old, ms) {
			break
		}
	}
	select {
	case rs.wake <- struct{}{}:
	default:
	}
}

// reap ends rooms at their deadlines. It owns one timer, set to the earliest deadline in
// the store. While there is one it looks at the clock from time to time, but it asks the
// store only at the deadline, and when the wall clock was set: old deadlines go by that.
func (rs *Rooms) reap() {
	const (
		batch = 100 // ended in one transaction; a join meanwhile waits for it
		retry = time.Second
		// While a machine is suspended time passes and timers stand still.
		longest = 5 * time.Second
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	asked := rs.Now()    // when the store was asked last
	earliest := asked.Ms // when the timer fires; 0 = it is not set
	deadline := int64(0) // earliest, if it is a room's deadline and not another try
	var failing outage.Log
	again := func(d time.Duration) {
		earliest, deadline = rs.Now().Ms+d.Milliseconds(), 0 // so that no later deadline replaces it
		timer.Reset(d)
	}
	await := func(leftMs int64) {
		timer.Reset(time.Duration(min(max(leftMs, 0), longest.Milliseconds())) * time.Millisecond)
	}
	for {
		select {
		case <-rs.life.Done():
			return
		case <-rs.wake:
			if ms := rs.noted.Swap(0); ms != 0 && (earliest == 0 || ms < earliest) {
				earliest, deadline = ms, ms
				await(ms - rs.Now().Ms)
			}
			continue
		case <-timer.C:
		}
		now := rs.Now()
		wasSet := abs((now.OldMs-now.Ms)-(asked.OldMs-asked.Ms)) > sameWithin
		if deadline > now.Ms && !wasSet {
			await(deadline - now.Ms)
			continue
		}
		asked = now
		ended, err := rs.cfg.Store.EndDue(rs.life, now, batch)
		if rs.life.Err() != nil {
			return
		}
		for i := range ended {
			rs.log.Info("room ended", "room", ended[i].Name, "sid", ended[i].SID, "reason", ended[i].EndReason)
			if ended[i].Config.Division != nil {
				rs.spawn(func() { rs.endBreakouts(&ended[i], nil) })
			}
		}
		switch {
		case err != nil:
			failing.Failed(rs.log, "cannot end the rooms that are due, trying again", err)
			again(retry)
			continue
		case len(ended) == batch:
			again(0)
			continue
		}
		earliest, err = rs.cfg.Store.NextDeadline(rs.life, now)
		if err != nil {
			failing.Failed(rs.log, "cannot read the next deadline, trying again", err)
			again(retry)
			continue
		}
		failing.Over(rs.log, "rooms that are due are ended again")
		deadline = earliest
		if earliest != 0 {
			await(earliest - rs.Now().Ms)
		}
	}
}

// Setting sets for a new room what LiveKit's request to create one has no field for.
type Setting func(*RoomConfig)

// newRecord makes the record of a new room from a request and the defaults.
func (rs *Rooms) newRecord(req *livekit.CreateRoomRequest, now time.Time, settings ...Setting) Record {
	c := rs.cfg
	rec := Record{
		SID:              guid.New("RM_"),
		Name:             req.GetName(),
		CreatedMs:        NowMs(now),
		EmptyTimeout:     TimeoutFromWire(req.GetEmptyTimeout(), c.EmptyTimeout),
		DepartureTimeout: TimeoutFromWire(req.GetDepartureTimeout(), c.DepartureTimeout),
		MaxParticipants:  c.MaxParticipants,
		Metadata:         req.GetMetadata(),
		Config:           c.Room,
		TurnPassword:     guid.New(""),
	}
	if n := req.GetMaxParticipants(); n != 0 {
		rec.MaxParticipants = n
	}
	if req.GetMinPlayoutDelay() != 0 || req.GetMaxPlayoutDelay() != 0 {
		rec.Config.MinPlayoutDelay, rec.Config.MaxPlayoutDelay = req.GetMinPlayoutDelay(), req.GetMaxPlayoutDelay()
	}
	rec.Config.SyncStreams = rec.Config.SyncStreams || req.GetSyncStreams()
	if len(req.GetTags()) > 0 {
		rec.Config.Tags = req.GetTags()
	}
	for _, set := range settings {
		set(&rec.Config)
	}
	rec.SetEmpty(rs.Now().Ms)
	return rec
}
