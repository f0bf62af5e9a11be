package signal

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"

	"parlor/media"
	"parlor/rooms"
	"parlor/rooms/mailbox"
)

const (
	// queueLength is how many messages may wait for a client to read them. A client that
	// is further behind resumes and gets the whole state.
	queueLength = 1024
	queueBytes  = 16 << 20 // bytes of waiting messages; but one message is always accepted
	// reserved are additional places, for the first and last messages of a socket.
	reserved     = 8
	writeTimeout = 10 * time.Second
	// quietTime is how long after its last message a client is asked whether it is there. One
	// that pings us as it is told to (clientPingInterval) need not be asked. pingInterval is how
	// long after that it is asked again.
	quietTime    = 7 * time.Second
	pingInterval = 10 * time.Second
	pingTimeout  = 20 * time.Second
	// lastWords is how long a socket is still read after it could not be written: a
	// client that sends leave and closes at once is then known to have left.
	lastWords = time.Second
)

// outlet is the connection from a participant to its client. It implements
// [rooms.Outlet].
type outlet struct {
	metrics *metrics
	// peer is the participant's media, for the session that a resume begins; nil before
	// it is made.
	peer atomic.Pointer[media.Peer]
	// The content of fresh tokens: the participant as its room last described it, and the
	// room to which it was moved; nil if it was not. Both outlive sockets.
	self  atomic.Pointer[shown]
	moved atomic.Pointer[move] // the newest

	mu   sync.Mutex     // guards the following
	left *rooms.Message // the last message to the client; nil: the participant has not left
	ws   *socket        // nil while no client is attached; a closed one stays until it is detached
}

var _ rooms.Outlet = (*outlet)(nil)

// shown is a participant as its room describes it.
type shown struct {
	info *livekit.ParticipantInfo
	host bool // it runs the room
}

// move is what all moves of a participant together have changed of its tokens.
type move struct {
	room   string
	since  time.Time // from which they are valid; zero = as the client's first one
	hostOf string    // see [rooms.Arrival]
}

// Send implements [rooms.Outlet].
func (o *outlet) Send(m *rooms.Message) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.attached() {
		return false
	}
	if o.ws.push(frame{message: m}) {
		return true
	}
	o.metrics.slow.Inc()
	o.ws.cut() // the socket's reader detaches it, and tells the room
	return false
}

// Leave implements [rooms.Outlet].
func (o *outlet) Leave(leave *livekit.LeaveRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left != nil {
		return
	}
	o.left = leaveMessage(leave)
	if o.ws != nil {
		o.ws.finish(o.left)
		o.ws = nil
	}
}

// Attached implements [rooms.Outlet].
func (o *outlet) Attached() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.attached()
}

// attached reports whether there is an open socket. mu is held.
func (o *outlet) attached() bool { return o.ws != nil && o.ws.done.Err() == nil }

// goodbye is the last message for a client that connects after its session has ended.
func (o *outlet) goodbye() *rooms.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left == nil {
		return startAgain()
	}
	return o.left
}

// startAgain tells a client that its session does not exist any more.
func startAgain() *rooms.Message {
	return leaveMessage(&livekit.LeaveRequest{
		CanReconnect: true, Reason: livekit.DisconnectReason_STATE_MISMATCH, Action: livekit.LeaveRequest_RECONNECT,
	})
}

func leaveMessage(leave *livekit.LeaveRequest) *rooms.Message {
	return rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_Leave{Leave: leave}})
}

// attach makes ws the outlet's socket and queues first, the whole state, ahead of all
// other messages. It closes the former socket. It returns false if the participant has
// left.
func (o *outlet) attach(ws *socket, first ...*rooms.Message) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left != nil {
		return false
	}
	if o.ws != nil {
		o.ws.finish(nil)
	}
	o.ws = ws
	for _, m := range first {
		if !ws.enqueue(frame{message: m, first: true}) { // cannot happen: the queue is empty and longer than first
			ws.cut()
		}
	}
	return true
}

// detach removes ws from the outlet. It returns false if another socket has replaced it,
// or if the participant has left.
func (o *outlet) detach(ws *socket) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ws != ws {
		return false
	}
	o.ws = nil
	return o.left == nil
}

// frame is a task for a socket's writer.
type frame struct {
	message *rooms.Message // nil with last: only close
	last    bool           // close the socket with 1000 afterwards
	first   bool           // one of the socket's first messages
}

// size is the number of bytes that f counts in the queue. A socket's first messages count
// as 0: they are accepted at any length, and marshalled by the socket's writer, so that
// the room does not wait.
func (f frame) size() int64 {
	if f.message == nil || f.first {
		return 0
	}
	return int64(len(f.message.Binary()))
}

// socket is one WebSocket. The goroutine that runs [socket.write] writes to it; others
// use the queue.
type socket struct {
	conn  *websocket.Conn
	queue *mailbox.Box[frame]
	bytes atomic.Int64       // bytes of the messages in queue
	json  atomic.Bool        // the client speaks protojson in text frames
	slow  prometheus.Counter // counts sockets whose client did not read in time
	over  context.CancelFunc // ends writer and reader
	done  context.Context
	quiet *time.Timer // fires when the client is to be asked whether it is there

	// writing ends with done, or when a write has taken writeTimeout: limit, which runs while
	// something is written, then ends it. A context for each message would cost more than to
	// send the message.
	writing context.Context
	limit   *time.Timer
}

func newSocket(ctx context.Context, conn *websocket.Conn, m *metrics) *socket {
	done, over := context.WithCancel(ctx)
	writing, tooSlow := context.WithCancelCause(done)
	limit := time.AfterFunc(writeTimeout, func() { tooSlow(errTooSlow) })
	limit.Stop()
	return &socket{
		slow: m.slow, conn: conn, queue: mailbox.New[frame](), done: done, over: over, writing: writing, limit: limit,
		quiet: time.NewTimer(quietTime),
	}
}

// errTooSlow: a client has not read a message in time.
var errTooSlow = errors.New("the client does not read")

// push queues f, unless the queue is full.
func (s *socket) push(f frame) bool {
	if f.last {
		return s.enqueue(f)
	}
	return s.bytes.Load() <= queueBytes && s.within(f, queueLength)
}

// enqueue is push without the bounds for slow clients.
func (s *socket) enqueue(f frame) bool { return s.within(f, queueLength+reserved) }

// within queues f, unless that many frames wait.
func (s *socket) within(f frame, most int) bool {
	size := f.size()
	s.bytes.Add(size)
	if s.queue.PostWithin(f, most) {
		return true
	}
	s.bytes.Add(-size)
	return false
}

// next takes the frame that has waited longest; false if none waits.
func (s *socket) next() (frame, bool) {
	taken, _ := s.queue.TakeSome(func(waiting []frame) int { return min(len(waiting), 1) })
	if len(taken) == 0 {
		return frame{}, false
	}
	return taken[0], true
}

// finish closes the socket with 1000, after the queued messages and m, if any.
func (s *socket) finish(m *rooms.Message) {
	if !s.push(frame{message: m, last: true}) {
		s.cut()
	}
}

// cut ends the socket at once.
func (s *socket) cut() { s.over() }

// write sends the queued messages and pings until the socket ends. It closes the
// connection before it returns, and waits for the pings. A ping has its own goroutine, so that
// a lost network does not delay the queue's own time limit; it ends by its timeout or with the
// socket.
func (s *socket) write() {
	var pings sync.WaitGroup
	defer pings.Wait()
	defer s.conn.CloseNow()
	defer s.over()
	defer s.quiet.Stop()
	ping := func() {
		s.quiet.Reset(pingInterval)
		pings.Go(s.ping)
	}
	for s.done.Err() == nil {
		f, waits := s.next()
		if !waits {
			select {
			case <-s.done.Done():
			case <-s.quiet.C:
				ping()
			case <-s.queue.Wake():
			}
			continue
		}
		select {
		case <-s.quiet.C: // however much there is to write
			ping()
		default:
		}
		if f.message != nil && s.send(f.message) != nil {
			s.linger()
			return
		}
		s.bytes.Add(-f.size())
		if f.last {
			_ = s.conn.Close(websocket.StatusNormalClosure, "") // the client may have closed it already
			return
		}
	}
}

// heard notes that a message has come from the client.
func (s *socket) heard() { s.quiet.Reset(quietTime) }

// linger waits for the reader to reach the end of the socket, for lastWords at most.
func (s *socket) linger() {
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-s.done.Done():
	case <-timer.C:
	}
}

func (s *socket) ping() {
	ctx, cancel := context.WithTimeout(s.done, pingTimeout)
	defer cancel()
	if s.conn.Ping(ctx) != nil {
		s.linger()
		s.cut()
	}
}

func (s *socket) send(m *rooms.Message) error {
	kind, b := websocket.MessageBinary, m.Binary()
	if s.json.Load() {
		text, err := protojson.Marshal(m.Response)
		if err != nil {
			return err
		}
		kind, b = websocket.MessageText, text
	}
	s.limit.Reset(writeTimeout)
	err := s.conn.Write(s.writing, kind, b)
	s.limit.Stop()
	if err != nil && errors.Is(context.Cause(s.writing), errTooSlow) {
		s.slow.Inc()
	}
	return err
}
