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
)

const (
	// queueLength is how many messages may wait for a client to read. A client
	// further behind than that gets the whole state again by resuming.
	queueLength = 1024
	queueBytes  = 16 << 20 // the bound in bytes; but one message is always taken
	// reserved are places beyond it for what a socket begins and ends with.
	reserved     = 8
	writeTimeout = 10 * time.Second
	pingInterval = 10 * time.Second
	pingTimeout  = 20 * time.Second
	// lastWords is how long a socket that cannot be written is still read: a client
	// that says goodbye and hangs up at once is known to have left.
	lastWords = time.Second
)

// outlet is a participant's way to its client; it implements [rooms.Outlet].
type outlet struct {
	metrics *metrics
	// peer is the participant's media, for the session that a resume begins; nil
	// before it is made.
	peer atomic.Pointer[media.Peer]
	// What fresh tokens say: who the participant is now, as its room told last, and
	// where it was moved to; nil if it was not. They outlive sockets.
	info  atomic.Pointer[livekit.ParticipantInfo]
	moved atomic.Pointer[move]

	mu   sync.Mutex     // guards the following
	left *rooms.Message // what it was told last; nil: it has not left
	ws   *socket        // nil while no client is attached; one that was cut stays until it is detached
}

var _ rooms.Outlet = (*outlet)(nil)

// move is the room that a participant was moved to, and when.
type move struct {
	room string
	at   time.Time
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
	o.ws.cut() // its reader detaches it, and tells the room
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

// attached reports whether a socket is there that is not over. mu is held.
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

// startAgain tells a client that its session is not there any more.
func startAgain() *rooms.Message {
	return leaveMessage(&livekit.LeaveRequest{
		CanReconnect: true, Reason: livekit.DisconnectReason_STATE_MISMATCH, Action: livekit.LeaveRequest_RECONNECT,
	})
}

func leaveMessage(leave *livekit.LeaveRequest) *rooms.Message {
	return rooms.NewMessage(&livekit.SignalResponse{Message: &livekit.SignalResponse_Leave{Leave: leave}})
}

// attach makes ws the outlet's socket and queues first, the whole state, ahead of
// everything else. A socket attached before is closed. It reports false if the participant
// is gone.
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
		if !ws.enqueue(frame{message: m, first: true}) { // cannot be: the queue is empty and longer than that
			ws.cut()
		}
	}
	return true
}

// detach takes ws off the outlet; false if another has replaced it, or the
// participant has left.
func (o *outlet) detach(ws *socket) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ws != ws {
		return false
	}
	o.ws = nil
	return o.left == nil
}

// frame is what a socket's writer is to do.
type frame struct {
	message *rooms.Message // nil with last: only close
	last    bool           // close 1000 afterwards
	first   bool           // it belongs to what the socket begins with
}

// size is how many bytes count as waiting with f. What a socket begins with is taken
// however long it is, and is marshalled by the socket's writer: its room does not wait.
func (f frame) size() int64 {
	if f.message == nil || f.first {
		return 0
	}
	return int64(len(f.message.Binary()))
}

// socket is one WebSocket. Its writer is the goroutine that runs [socket.write];
// the queue is the only way to it.
type socket struct {
	conn  *websocket.Conn
	queue chan frame
	bytes atomic.Int64       // of the messages in queue
	json  atomic.Bool        // the client speaks protojson in text frames
	slow  prometheus.Counter // sockets whose client did not read in time
	over  context.CancelFunc // ends writer and reader
	done  context.Context
}

func newSocket(ctx context.Context, conn *websocket.Conn, m *metrics) *socket {
	done, over := context.WithCancel(ctx)
	return &socket{slow: m.slow, conn: conn, queue: make(chan frame, queueLength+reserved), done: done, over: over}
}

// push queues f unless the queue is full.
func (s *socket) push(f frame) bool {
	if !f.last && (len(s.queue) >= queueLength || s.bytes.Load() > queueBytes) {
		return false
	}
	return s.enqueue(f)
}

// enqueue is push without the bounds on a client that does not read.
func (s *socket) enqueue(f frame) bool {
	size := f.size()
	s.bytes.Add(size)
	select {
	case s.queue <- f:
		return true
	default:
		s.bytes.Add(-size)
		return false
	}
}

// finish has the socket closed with 1000 after what is queued and m, if any.
func (s *socket) finish(m *rooms.Message) {
	if !s.push(frame{message: m, last: true}) {
		s.cut()
	}
}

// cut ends the socket at once.
func (s *socket) cut() { s.over() }

// write sends what is queued, and pings, until the socket is over. It closes the
// connection before it returns.
func (s *socket) write() {
	defer s.conn.CloseNow()
	defer s.over()
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		select {
		case <-s.done.Done():
			return
		case <-ping.C:
			// In its own goroutine so that a lost network does not hold up the queue's
			// own time limit; it ends by its timeout or with the socket.
			go s.ping()
		case f := <-s.queue:
			if f.message != nil && s.send(f.message) != nil {
				s.linger()
				return
			}
			s.bytes.Add(-f.size())
			if f.last {
				_ = s.conn.Close(websocket.StatusNormalClosure, "") // the client may be gone already
				return
			}
		}
	}
}

// linger waits until the reader has come to the socket's end, but not for long.
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
	ctx, cancel := context.WithTimeout(s.done, writeTimeout)
	defer cancel()
	kind, b := websocket.MessageBinary, m.Binary()
	if s.json.Load() {
		text, err := protojson.Marshal(m.Response)
		if err != nil {
			return err
		}
		kind, b = websocket.MessageText, text
	}
	err := s.conn.Write(ctx, kind, b)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.slow.Inc()
	}
	return err
}
