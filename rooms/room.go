package rooms

import (
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/livekit/protocol/livekit"

	"parlor/rooms/mailbox"
	"parlor/rooms/outage"
)

// Room is one live room: one goroutine that owns everything in it. Other
// goroutines post to its mailbox, by post, ask or askName.
type Room struct {
	rooms *Rooms
	name  string
	mail  *mailbox.Box[letter]
	log   *slog.Logger

	failed chan struct{} // closed when the room has failed: callers stop waiting for its answer

	people    atomic.Uint32 // in the room, or expected back, dependents not counted; as of the loop's last round
	unwritten atomic.Int64  // rows that wait for the disk, as of the loop's last round
	busySince atomic.Int64  // when the loop began what it does, in ns after Rooms.began; 0 = it waits

	receivers atomic.Pointer[receivers] // of data; see presence
	keepsChat atomic.Bool               // as its settings on disk say
	calls     calls
	nonces    nonces

	// The rest is the loop's alone.

	rec      Record // SID "" while no open room bears the name
	creating []func(Outcome, error)

	participants map[string]*Participant // by identity
	expected     map[string]*Session     // by identity: expected back after a restart
	recorders    int                     // of both
	seats        map[string]*seat        // by identity: held for participants that are moved here
	tracks       map[string]*track       // by SID
	dataTracks   map[string]*dataTrack   // by SID
	departed     []Session               // the newest sessions that left, for clients that resume or join again
	agents       agents                  // the dispatches and jobs of the room
	hosts        map[string]bool         // by identity: whether it is host, where that was decided and is on disk
	hostsAhead   map[string]bool         // as hosts will be when what is on its way to the disk is there
	chatWaits    chatWaits

	untold map[*Participant]struct{} // whose handles of data tracks have changed; see tellHandles

	stored      Record          // the record as last written
	pipeline    *Pipeline       // of the changes
	pending     int             // changes submitted and not answered
	pendingRows int             // the rows of those changes
	backlog     *Change         // facts that the store could not take yet; they are tried again
	behind      []*Change       // facts that came after those, while the outcome of changes between is still open
	paced       []chan struct{} // clients that wait until fewer rows wait for the disk
	failing     bool            // the newest answer of the store was a failure
	overdue     outage.Log      // of ending the room at its deadline
	closing     bool            // an end is submitted: all other letters wait for its outcome
	deferred    []letter        // the letters that wait for it
	unread      bool            // the row could not be read so far
	gone        bool            // the loop is to stop: the row has ended, or the room has failed
	stopped     bool            // the process is stopping: clients were sent away, sessions stay
	// triedLast: since the process began to stop, the backlog has been tried once more.
	triedLast bool
	alarms    [alarmCount]time.Time
	timer     *time.Timer
	speakers  map[string]*livekit.SpeakerInfo // as last announced, by participant SID
	quality   map[string]livekit.ConnectionQuality
	// summarised is when the media of sessions was written last; see writeSummaries.
	summarised time.Time
	tallied    [2]int // present and expected, as counted in the registry's figures
}

// The times at which a live room has something to do.
type alarm int

const (
	alarmGrace    alarm = iota // participants that were expected back and did not come have left
	alarmDeadline              // only dependents are in the room and its deadline has come
	alarmRetry                 // try the backlog again
	alarmRead                  // try to read the row again
	alarmSpeakers              // look at audio levels
	alarmQuality               // look at connections' qualities
	alarmUpdate                // send the room's counts
	alarmAway                  // participants that are without signalling for too long have left
	alarmAgents                // agents have not come, or have not left, in time
	alarmQueued                // answer clients whose queued tracks have waited too long
	alarmCount
)

const (
	speakerInterval = 400 * time.Millisecond
	qualityInterval = 5 * time.Second
	updateDelay     = time.Second // coalesces room_update for counts
	retryInterval   = time.Second
)

// MostDeparted is how many of its newest sessions a room remembers. A client that resumes
// is told which of them left, and a participant that rejoins gets the decisions about its
// earlier session.
const MostDeparted = 128

func newRoom(rs *Rooms, name string) *Room {
	r := &Room{
		rooms:        rs,
		name:         name,
		mail:         mailbox.New[letter](),
		failed:       make(chan struct{}),
		pipeline:     new(Pipeline),
		log:          rs.log.With("room", name),
		participants: make(map[string]*Participant),
		expected:     make(map[string]*Session),
		seats:        make(map[string]*seat),
		tracks:       make(map[string]*track),
		dataTracks:   make(map[string]*dataTrack),
		untold:       make(map[*Participant]struct{}),
		speakers:     make(map[string]*livekit.SpeakerInfo),
		quality:      make(map[string]livekit.ConnectionQuality),
		agents:       newAgents(),
	}
	r.receivers.Store(&receivers{})
	return r
}

// post runs f on the room's goroutine, in order. If the room has gone, f is dropped: its
// participant went with the room.
func (r *Room) post(f func()) bool { return r.mail.Post(letter{run: f}) }

// loop runs until the room is no longer live, or has failed.
func (r *Room) loop() {
	r.timer = time.NewTimer(time.Hour)
	defer r.timer.Stop()
	defer r.tally(0, 0)
	defer r.quarantine()
	r.serve()
}

// serve runs the room's letters. First it reads the room's row, for which the room waits.
func (r *Room) serve() {
	r.busy()
	r.read()
	for {
		for _, l := range r.mail.Take() {
			r.busy()
			r.deliverLetter(l)
		}
		r.tellHandles()
		r.forgetAbsent()
		r.tally(len(r.participants), len(r.expected))
		r.people.Store(r.rec.NumParticipants)
		r.releasePaced()
		if r.gone {
			if r.pending == 0 && r.mail.CloseIfEmpty() {
				return
			}
		} else if r.idle() && r.rooms.retire(r) {
			return
		}
		r.setTimer()
		r.busySince.Store(0)
		select {
		case <-r.mail.Wake():
		case <-r.timer.C:
			r.busy()
			r.ring()
		}
	}
}

// busy notes that the room begins to do something.
func (r *Room) busy() { r.busySince.Store(int64(time.Since(r.rooms.began)) + 1) }

// stuckAfter is how long a room may do one thing. None waits for anybody, so it takes
// milliseconds.
const stuckAfter = 10 * time.Second

func (r *Room) stuck(now time.Time) bool {
	since := r.busySince.Load()
	return since != 0 && now.Sub(r.rooms.began)-time.Duration(since) >= stuckAfter
}

// deliverLetter runs l, defers it while the room is closing, or tells its sender that the
// room has gone.
func (r *Room) deliverLetter(l letter) {
	switch {
	case l.urgent:
		l.run()
	case r.gone:
		if l.retired != nil {
			l.retired()
		}
	case r.closing:
		r.deferred = append(r.deferred, l)
	default:
		l.run()
	}
}

// read loads the room for the first time. If that fails it is tried again: a participant
// may be expected back, and perhaps nobody else asks for the room.
func (r *Room) read() {
	err := r.load()
	if err == nil || r.rooms.life.Err() != nil {
		r.unread = false
		return
	}
	if !r.unread {
		r.log.Error("cannot read the room, trying again", "error", err)
	}
	r.unread = true
	r.setAlarm(alarmRead, time.Now().Add(retryInterval))
}

// load reads the open room of this name and the sessions that are expected back in it.
func (r *Room) load() error {
	ctx := r.rooms.life
	rec, err := r.rooms.cfg.Store.FindOpen(ctx, r.name)
	if errors.Is(err, ErrNoRoom) {
		r.unread = false
		return nil
	}
	if err != nil {
		return err
	}
	present, err := r.rooms.cfg.Store.Present(ctx, rec.SID)
	if err != nil {
		return err
	}
	latest, err := r.rooms.cfg.Store.Latest(ctx, rec.SID, MostDeparted)
	if err != nil {
		return err
	}
	if err := r.loadBlobs(rec.SID, present); err != nil {
		return err
	}
	if err := r.loadHosts(ctx, rec.SID, present); err != nil {
		return err
	}
	r.rec = rec
	if err := r.loadAgents(ctx); err != nil {
		r.rec = Record{}
		return err
	}
	r.stored, r.unread = rec, false
	r.keepsChat.Store(rec.Config.KeepChat)
	for i := range present {
		r.expected[present[i].Identity] = &present[i]
		if recorder(present[i].Info) {
			r.recorders++
		}
	}
	r.countDamaged(present)
	r.departed = slices.DeleteFunc(latest, func(s Session) bool { return s.LeftMs == 0 })
	r.awaitAgents()
	// The row of a room with dependents alone has no deadline, but the room itself has
	// one.
	r.rec.SetDeadline()
	r.watchDeadline()
	if len(present) > 0 {
		r.log.Info("participants are expected back", "count", len(present), "grace", r.rooms.cfg.RestartGrace)
		r.alarms[alarmGrace] = time.Now().Add(r.rooms.cfg.RestartGrace)
	}
	return nil
}

// countDamaged counts the participants again if some of their rows cannot be read. Whether
// those are agents tells the room's own count of people.
func (r *Room) countDamaged(present []Session) {
	var people uint32
	damaged := false
	for i := range present {
		damaged = damaged || present[i].Damaged
		if !present[i].Damaged && !dependent(present[i].Info) {
			people++
		}
	}
	if !damaged {
		return
	}
	for i := range present {
		switch s := &present[i]; {
		case !s.Damaged:
		case people < r.rec.NumParticipants:
			people++
		default:
			s.Info.Kind = livekit.ParticipantInfo_AGENT
		}
	}
	r.recount()
}

// found makes sure that r.rec is the open room. It fails with [ErrNoRoom] if there is
// none.
func (r *Room) found() error {
	if r.rec.SID != "" {
		return nil
	}
	if len(r.creating) > 0 {
		// A creation is under way. Reading the store before its answer could give a
		// second copy of the room's state.
		return ErrNoRoom
	}
	if err := r.load(); err != nil {
		return Errorf(Unavailable, "room %q cannot be read at the moment, try again", r.name) // read has logged why
	}
	if r.rec.SID == "" {
		return ErrNoRoom
	}
	return nil
}

// idle reports whether nothing holds the room live. A stopped room may forget its
// participants and those that are expected back: their rows remain.
func (r *Room) idle() bool {
	if r.pending > 0 || r.closing || len(r.creating) > 0 || len(r.seats) > 0 || r.calls.any() {
		return false
	}
	if r.stopped {
		return true
	}
	return len(r.participants) == 0 && len(r.expected) == 0 && len(r.agents.awaited) == 0 && r.backlog == nil && !r.unread
}

// setTimer sets the timer to the earliest alarm. While the room is closing nothing is
// due, since everything waits for the outcome.
func (r *Room) setTimer() {
	if r.closing || r.gone {
		r.timer.Stop()
		return
	}
	next, any := longestWait, false
	for a, at := range r.alarms {
		if !at.IsZero() {
			next, any = min(next, at.Sub(r.now(alarm(a)))), true
		}
	}
	if !any {
		r.timer.Stop()
		return
	}
	r.timer.Reset(max(next, 0))
}

// now is the clock that an alarm is compared with. Deadlines have a clock of their own, see
// [Instant]; the other alarms are durations after an event.
func (r *Room) now(a alarm) time.Time {
	if a == alarmDeadline {
		return time.UnixMilli(r.rooms.Now().For(r.rec.EmptySinceMs))
	}
	return time.Now()
}

// longestWait bounds the timer of a live room. Its deadline comes also while a machine is
// suspended and its timers stand still, and a deadline of before the boot when the wall clock
// is set.
const longestWait = 5 * time.Second

// ring does what is due.
func (r *Room) ring() {
	for a, at := range r.alarms {
		now := r.now(alarm(a))
		if at.IsZero() || now.Before(at) {
			continue
		}
		if r.closing { // an alarm before this one has begun to end the room
			continue
		}
		r.alarms[a] = time.Time{}
		switch alarm(a) {
		case alarmGrace:
			r.graceOver()
		case alarmDeadline:
			r.deadlineOver(now)
		case alarmRetry:
			r.retry()
		case alarmRead:
			if r.unread { // else a caller has had it read
				r.read()
			}
		case alarmSpeakers:
			r.tellSpeakers(now)
		case alarmQuality:
			r.tellQuality(now)
		case alarmUpdate:
			r.tellRoom()
		case alarmAway:
			r.endAway(now)
		case alarmAgents:
			r.agentsOver(now)
		case alarmQueued:
			r.endQueues(now)
		}
	}
}

// setAlarm sets a to at, unless a is set to an earlier time already.
func (r *Room) setAlarm(a alarm, at time.Time) {
	if cur := r.alarms[a]; cur.IsZero() || at.Before(cur) {
		r.alarms[a] = at
	}
}

// tell sends a message to every participant for which want is true; nil = to all.
func (r *Room) tell(resp *livekit.SignalResponse, want func(*Participant) bool) {
	m := NewMessage(resp)
	for _, p := range r.participants {
		if p.admitted && (want == nil || want(p)) {
			p.outlet.Send(m)
		}
	}
}

// tellRoom sends the room's state to everybody in it.
func (r *Room) tellRoom() {
	r.alarms[alarmUpdate] = time.Time{}
	r.tell(&livekit.SignalResponse{Message: &livekit.SignalResponse_RoomUpdate{
		RoomUpdate: &livekit.RoomUpdate{Room: r.rec.Info()},
	}}, nil)
}

// stop tells every client to reconnect. No session ends: the rows stay, and the next
// process expects the participants back.
func (r *Room) stop() {
	if r.stopped {
		return
	}
	r.stopped = true
	r.writeSummaries(time.Now())
	for _, p := range r.participants {
		p.outlet.Leave(&livekit.LeaveRequest{
			CanReconnect: true,
			Reason:       livekit.DisconnectReason_SERVER_SHUTDOWN,
			Action:       livekit.LeaveRequest_RECONNECT,
		})
		p.shut()
	}
	clear(r.tracks)
	clear(r.dataTracks)
	r.calls.fail()
	if r.backlog != nil {
		r.settleBacklog()
	}
}
