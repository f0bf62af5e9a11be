package conformance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// restart is a call of stock clients during which the server is restarted.
type restart struct {
	*testing.T
	server *server
	room   string
	wires  map[string]*wire // each client's connection to the server, by identity
	peers  map[string]*peer
	node   *nodeClient // nil if Node is not installed
	before *livekit.ListParticipantsResponse
	start  *livekit.Room
	told   int // number of webhooks before the restart
}

// errNodeLocked ends a try: the Node SDK's client is of no use any more, by a fault of its own.
var errNodeLocked = errors.New("the Node SDK waits for itself")

// overRestart is a test of a call over a restart. It is repeated, three times at most, if the
// Node SDK's client waits for itself.
func overRestart(t *testing.T, test func(r *restart)) {
	t.Parallel()
	for try := 1; ; try++ {
		locked := false
		t.Run(fmt.Sprint("try ", try), func(t *testing.T) {
			defer func() {
				if why := recover(); why == errNodeLocked {
					locked = true
					t.Log(errNodeLocked)
				} else if why != nil {
					panic(why)
				}
			}()
			test(newRestart(t))
		})
		if !locked {
			return
		}
		require.Less(t, try, 3, "the Node SDK waits for itself again and again")
	}
}

const restartGrace = 15 * time.Second

// newRestart makes a call: ada and bob with two and one peer connections, carol who has
// lost the permission to publish, gil who will not return, and a client with the Node
// SDK. A moderator has changed some of them.
func newRestart(t *testing.T) *restart {
	parlorOnly(t)
	s := startServer(t, settings{"restart_grace": restartGrace.String(), "webhook": map[string]any{
		"api_key": apiKey, "urls": []string{env.hooks.URL},
	}})
	r := &restart{T: t, server: s, room: roomName(t), wires: map[string]*wire{}, peers: map[string]*peer{}}
	api := roomService(s)
	var err error
	r.start, err = api.CreateRoom(t.Context(), &livekit.CreateRoomRequest{
		Name: r.room, Metadata: "of the room", MaxParticipants: 5, EmptyTimeout: 1001, DepartureTimeout: 1002,
	})
	require.NoError(t, err)
	for identity, m := range map[string]mode{"ada": dual, "bob": single, "carol": dual, "gil": single} {
		r.wires[identity] = newWire(t, s)
		r.peers[identity] = m.joinAt(t, r.wires[identity].ws(), token(t, identity, join(r.room)))
		r.peers[identity].publishMicrophone(t)
	}
	r.peers["bob"].publishCamera(t)
	r.startNode()
	for listener := range r.back() {
		r.awaitSound(listener, time.Now())
	}

	r.moderate(&livekit.UpdateParticipantRequest{
		Identity: "ada", Name: "Ada L.", Metadata: "moderated", Attributes: map[string]string{"role": "host"},
	})
	r.moderate(&livekit.UpdateParticipantRequest{
		Identity: "carol", Permission: &livekit.ParticipantPermission{CanSubscribe: true, CanPublishData: true},
	})
	env.hooks.await(t, r.room, "track_unpublished carol MICROPHONE")
	for listener := range r.back() {
		r.awaitSound(listener, time.Now())
	}
	r.before, err = api.ListParticipants(t.Context(), &livekit.ListParticipantsRequest{Room: r.room})
	require.NoError(t, err)
	r.awaitWebhooks()
	r.told = len(env.hooks.lines(r.room))
	return r
}

func (r *restart) moderate(u *livekit.UpdateParticipantRequest) {
	r.Helper()
	u.Room = r.room
	_, err := roomService(r.server).UpdateParticipant(r.Context(), u)
	require.NoError(r, err)
}

// back are the participants that should return, and whether they publish.
func (r *restart) back() map[string]bool {
	back := map[string]bool{"ada": true, "bob": true, "carol": false}
	if r.node != nil {
		back["node"] = true
	}
	return back
}

// soundSince is when the listener first heard the speaker after a moment; zero if it did
// not.
func (r *restart) soundSince(listener, speaker string, since time.Time) time.Time {
	if listener == "node" {
		return r.node.heardSince(speaker, since)
	}
	p := r.peers[listener]
	pub := p.find(speaker, mic)
	if pub == nil {
		return time.Time{}
	}
	for _, pkt := range p.inbound(pub.SID()).all() {
		if pkt.at.After(since) {
			return pkt.at
		}
	}
	// The Node SDK sends real Opus, without a stamp.
	if in := p.inbound(pub.SID()); speaker == "node" && in != nil {
		if at := in.newest(); at.After(since) {
			return at
		}
	}
	return time.Time{}
}

// awaitSound waits until the listener hears all publishers that should return. It returns
// the time at which it first heard one of them.
func (r *restart) awaitSound(listener string, since time.Time) (first time.Time) {
	r.Helper()
	for speaker, publishes := range r.back() {
		if speaker == listener || !publishes {
			continue
		}
		var at time.Time
		eventuallyWithin(r.T, 2*patience, listener+" hears "+speaker, func() bool {
			if (listener == "node" || speaker == "node") && r.node.locked() {
				panic(errNodeLocked)
			}
			at = r.soundSince(listener, speaker, since)
			return !at.IsZero()
		})
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// awaitWebhooks waits for the webhooks of all tracks and participants.
func (r *restart) awaitWebhooks() {
	r.Helper()
	for identity, publishes := range r.back() {
		env.hooks.await(r.T, r.room, "participant_joined "+identity)
		if publishes {
			env.hooks.await(r.T, r.room, "track_published "+identity+" MICROPHONE")
		}
	}
	for _, line := range []string{"participant_joined gil", "track_published gil MICROPHONE", "track_published bob CAMERA"} {
		env.hooks.await(r.T, r.room, line)
	}
}

// verify starts the server again, waits until all have returned, and compares all states.
func (r *restart) verify(down time.Time) {
	r.Helper()
	// Requests from now on reach the new server. A busy client may send one before this
	// test has seen that the server is ready.
	gone := time.Now()
	require.NoError(r, r.server.start())
	ready := time.Now()
	for _, listener := range slices.Sorted(maps.Keys(r.back())) {
		var tried time.Time
		eventuallyWithin(r.T, 2*patience, listener+" tries to come back", func() bool {
			tried = r.wires[listener].triedAfter(gone)
			return !tried.IsZero()
		})
		since := tried
		if listener == "node" { // its decoder conceals missing audio for a while
			eventuallyWithin(r.T, 2*patience, "node is back", func() bool {
				since = r.node.backAt()
				return !since.IsZero()
			})
		}
		flows := r.awaitSound(listener, since)
		r.Logf("%-5s media %4d ms after the server was ready: %4d ms until the client tried, %4d ms from there (down %d ms)", listener,
			flows.Sub(ready).Milliseconds(), tried.Sub(ready).Milliseconds(), flows.Sub(tried).Milliseconds(), ready.Sub(down).Milliseconds())
	}
	api := roomService(r.server)
	list, err := api.ListRooms(r.Context(), &livekit.ListRoomsRequest{Names: []string{r.room}})
	require.NoError(r, err)
	require.Len(r, list.Rooms, 1)
	room := list.Rooms[0]
	require.Equal(r, r.start.Sid, room.Sid)
	require.Equal(r, r.start.CreationTimeMs, room.CreationTimeMs)
	require.Equal(r, "of the room", room.Metadata)
	require.Equal(r, []uint32{5, 1001, 1002}, []uint32{room.MaxParticipants, room.EmptyTimeout, room.DepartureTimeout})

	after, err := api.ListParticipants(r.Context(), &livekit.ListParticipantsRequest{Room: r.room})
	require.NoError(r, err)
	for identity := range r.back() {
		earlier, is := find(r.before, identity), find(after, identity)
		require.NotNil(r, earlier, identity)
		require.NotNil(r, is, identity)
		require.Equal(r, earlier.Sid, is.Sid, identity)
		require.Equal(r, earlier.JoinedAtMs, is.JoinedAtMs, identity)
		require.Equal(r, earlier.Name, is.Name, identity)
		require.Equal(r, earlier.Metadata, is.Metadata, identity)
		require.Equal(r, earlier.Attributes, is.Attributes, identity)
		require.Equal(r, earlier.Permission.String(), is.Permission.String(), identity)
		require.Equal(r, len(earlier.Tracks), len(is.Tracks), identity)
	}
	ada, carol := find(after, "ada"), find(after, "carol")
	require.Equal(r, "Ada L. moderated host", strings.Join([]string{ada.Name, ada.Metadata, ada.Attributes["role"]}, " "))
	require.False(r, carol.Permission.CanPublish)
	for identity, p := range r.peers {
		if identity == "gil" {
			continue
		}
		require.Equal(r, find(r.before, identity).Sid, p.LocalParticipant.SID(), identity)
		require.Equal(r, r.start.Sid, p.SID(), identity)
	}
	_, err = r.peers["carol"].LocalParticipant.PublishTrack(newSource(r.T, opus).track, nil)
	require.ErrorIs(r, err, lksdk.ErrTrackPublishTimeout, "what was revoked stays revoked")

	env.hooks.await(r.T, r.room, "participant_left gil")
	r.verifyWebhooks(ready)
}

// verifyWebhooks: participants that returned have not left; their former tracks have
// ended, and their new ones have begun. A participant that did not return left once.
func (r *restart) verifyWebhooks(ready time.Time) {
	r.Helper()
	events, lines := env.hooks.of(r.room)[r.told:], env.hooks.lines(r.room)[r.told:]
	counts := map[string]int{}
	for _, line := range lines {
		counts[line]++
	}
	want := map[string]int{"participant_left gil": 1, "track_unpublished gil MICROPHONE": 1}
	for identity, publishes := range r.back() {
		if publishes {
			want["track_unpublished "+identity+" MICROPHONE"] = 1
			want["track_published "+identity+" MICROPHONE"] = 1
		}
	}
	want["track_unpublished bob CAMERA"], want["track_published bob CAMERA"] = 1, 1
	require.Equal(r, want, counts, "in order: %v", lines)

	ended := map[string]bool{}
	for n, e := range events {
		switch e.Event {
		case "track_unpublished":
			ended[e.Track.Sid] = true
			earlier := find(r.before, e.Participant.Identity)
			require.True(r, slices.ContainsFunc(earlier.Tracks, func(t *livekit.TrackInfo) bool { return t.Sid == e.Track.Sid }), lines[n])
			require.Equal(r, earlier.Sid, e.Participant.Sid)
		case "track_published":
			require.False(r, ended[e.Track.Sid])
			line := strings.Replace(lines[n], "_published", "_unpublished", 1)
			require.Contains(r, lines[:n], line, "the old track ends before the new one begins")
		case "participant_left":
			require.Equal(r, find(r.before, "gil").Sid, e.Participant.Sid)
			require.Equal(r, livekit.DisconnectReason_CONNECTION_TIMEOUT, e.Participant.DisconnectReason)
			require.EqualValues(r, len(r.back()), e.Room.NumParticipants)
			require.WithinDuration(r, ready.Add(restartGrace), time.Unix(e.CreatedAt, 0), 10*time.Second)
		}
	}
	env.hooks.check(r.T)
}

func find(list *livekit.ListParticipantsResponse, identity string) *livekit.ParticipantInfo {
	for _, p := range list.Participants {
		if p.Identity == identity {
			return p
		}
	}
	return nil
}

// TestKillInACall: a crash of the server only interrupts the call.
func TestKillInACall(t *testing.T) {
	overRestart(t, func(r *restart) {
		down := time.Now()
		r.wires["gil"].hold()
		r.server.kill()
		r.verify(down)
	})
}

// TestStopInACall: an orderly stop only interrupts the call, and the clients know at
// once, even if one client never closes its connection.
func TestStopInACall(t *testing.T) { overRestart(t, stopInACall) }

func stopInACall(r *restart) {
	t := r.T
	deaf(t, r.server, r.room+"-deaf")
	r.wires["gil"].hold()
	down := time.Now()
	require.NoError(t, r.server.cmd.Process.Signal(syscall.SIGTERM))
	jwt := token(t, "late", join(r.room))
	refused, unready := 0, false
	for running := true; running; {
		select {
		case <-r.server.done:
			running = false
		case <-time.After(20 * time.Millisecond):
			status, _, _ := knock(r.server.http() + "/readyz")
			unready = unready || status == 503
			for _, path := range []string{"/rtc/validate?access_token=" + jwt, "/rtc?protocol=17&access_token=" + jwt} {
				status, after, body := knock(r.server.http() + path)
				if status == 503 {
					refused++
					require.NotEmpty(t, after, "Retry-After")
				} else if status == 500 { // the signal has not arrived yet, and the room is full
					require.Contains(t, body, "room is full")
				} else {
					require.Contains(t, []int{0, 200, 101}, status, body) // 200 and 101: nor has it here
				}

			}
		}
	}
	took := time.Since(down)
	t.Logf("the stop took %v, and refused %d requests meanwhile", took.Round(time.Millisecond), refused)
	require.Less(t, took, 30*time.Second)
	require.Zero(t, r.server.cmd.ProcessState.ExitCode(), r.server.log.tail(20))
	require.Positive(t, refused, "joins are refused while the server stops")
	require.True(t, unready, "readyz says so")
	r.verify(down)
}

// TestSecondSignal: the second signal ends the process at once.
func TestSecondSignal(t *testing.T) {
	parlorOnly(t)
	s := startServer(t, nil)
	deaf(t, s, roomName(t))
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	time.Sleep(400 * time.Millisecond) // a sooner signal counts as the same request
	select {
	case <-s.done:
		require.Fail(t, "the first signal waits for clients")
	default:
	}
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	<-s.done
	// An undisturbed stop exits with 0.
	require.Equal(t, 130, s.cmd.ProcessState.ExitCode())
}

// knock requests a WebSocket, or another route, and returns the status, 0 if there is no
// answer, and the body of a refusal.
func knock(url string) (status int, retryAfter, body string) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", ""
	}
	if strings.Contains(url, "/rtc?") {
		for k, v := range upgradeHeaders {
			req.Header.Set(k, v)
		}
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, "", ""
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 {
		all, _ := io.ReadAll(res.Body) // what came of it says enough
		body = string(all)
	}
	return res.StatusCode, res.Header.Get("Retry-After"), body
}

var upgradeHeaders = map[string]string{
	"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}

// deaf joins a client that never reads, answers or closes.
func deaf(t *testing.T, s *server, room string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.http(), "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	request := "GET /rtc?protocol=17&access_token=" + token(t, "deaf", join(room)) + " HTTP/1.1\r\nHost: x\r\n"
	for k, v := range upgradeHeaders {
		request += k + ": " + v + "\r\n"
	}
	_, err = io.WriteString(conn, request+"\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	_, err = reader.ReadByte() // of the join response
	require.NoError(t, err)
}

// nodeClient is the client in node/restart.js.
type nodeClient struct {
	errs  logBuffer  // what it and its SDK's core log
	mu    sync.Mutex // guards the following
	heard map[string]int
	at    map[string][]time.Time // when the count of a speaker's packets grew
	log   []string
	back  time.Time // time of its reconnect
}

func (n *nodeClient) backAt() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.back
}

// locked reports whether the SDK's core waits for itself. Up to rtc-node 1.1.0 it does so for
// ever if a negotiation is wanted a second time before the first is answered, as happens at
// times when it publishes again (livekit/rust-sdks#1252).
func (n *nodeClient) locked() bool {
	return strings.Contains(n.errs.String(), "signal_event taking too much time: Answer(")
}

func (r *restart) startNode() {
	r.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		require.NotEqual(r, "true", os.Getenv("CI"), "node is not installed")
		r.Log("without the Node SDK: node is not installed")
		return
	}
	require.NoError(r, nodeModules())
	r.wires["node"] = newWire(r.T, r.server)
	n := &nodeClient{heard: map[string]int{}, at: map[string][]time.Time{}}
	cmd := exec.CommandContext(r.Context(), node, "restart.js")
	cmd.Dir = "node"
	cmd.Env = append(os.Environ(), "PARLOR_URL="+r.wires["node"].http(), "PARLOR_KEY="+apiKey, "PARLOR_SECRET="+apiSecret,
		"PARLOR_WEBHOOK_PORT=0", "PARLOR_ROOM="+r.room)
	in, err := cmd.StdinPipe()
	require.NoError(r, err)
	out, err := cmd.StdoutPipe()
	require.NoError(r, err)
	cmd.Stderr = &n.errs
	require.NoError(r, cmd.Start())
	var reading sync.WaitGroup
	reading.Go(func() { n.read(out) })
	r.Cleanup(func() {
		in.Close()
		reading.Wait()
		if err := cmd.Wait(); r.Failed() {
			r.Logf("node: %v, %v\n%s", err, n.log, n.errs.tail(600))
		}
	})
	r.node = n
}

func (n *nodeClient) read(out io.Reader) {
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		var line struct {
			Heard map[string]int
			Log   []string
		}
		if json.Unmarshal(scanner.Bytes(), &line) != nil {
			continue // a line of some library
		}
		n.mu.Lock()
		for speaker, count := range line.Heard {
			if count > n.heard[speaker] {
				n.at[speaker] = append(n.at[speaker], time.Now())
			}
		}
		n.heard, n.log = line.Heard, line.Log
		if n.back.IsZero() && slices.Contains(line.Log, "reconnected") {
			n.back = time.Now()
		}
		n.mu.Unlock()
	}
}

func (n *nodeClient) heardSince(speaker string, since time.Time) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, at := range n.at[speaker] {
		if at.After(since) {
			return at
		}
	}
	return time.Time{}
}

// TestRestartOfACallOfTen: everybody hears everybody again after the server was stopped in
// order and started at once, as systemd does it, with the port its own or systemd's. The log
// tells how long people heard nothing.
func TestRestartOfACallOfTen(t *testing.T) {
	parlorOnly(t)
	t.Run("its own port", func(t *testing.T) { restartACallOfTen(t, startServer(t, settings{"restart_grace": "1m"})) })
	t.Run("systemd's port", func(t *testing.T) {
		s := startServer(t, settings{"restart_grace": "1m"})
		_, err := s.stop(patience)
		require.NoError(t, err)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(s.port))
		require.NoError(t, err)
		s.socket, err = l.(*net.TCPListener).File()
		require.NoError(t, err)
		require.NoError(t, l.Close()) // the file has its own descriptor
		t.Cleanup(func() { _ = s.socket.Close() })
		require.NoError(t, s.start())
		restartACallOfTen(t, s)
	})
}

func restartACallOfTen(t *testing.T, s *server) {
	room := roomName(t)
	var all []*peer
	for n := range 10 {
		p := single.joinAt(t, s.ws(), token(t, fmt.Sprintf("p%d", n), join(room)))
		p.publishMicrophone(t)
		all = append(all, p)
	}
	// heard is when a listener first heard a speaker after a moment; zero if it did not.
	heard := func(listener, speaker *peer, since time.Time) time.Time {
		if pub := listener.find(speaker.LocalParticipant.Identity(), mic); pub != nil {
			for _, pkt := range listener.inbound(pub.SID()).all() {
				if pkt.at.After(since) {
					return pkt.at
				}
			}
		}
		return time.Time{}
	}
	everybody := func(since time.Time) (first, last []time.Duration) {
		for _, listener := range all {
			var at []time.Duration
			for _, speaker := range all {
				if speaker == listener {
					continue
				}
				eventuallyWithin(t, 2*patience, listener.LocalParticipant.Identity()+" hears "+speaker.LocalParticipant.Identity(), func() bool {
					return !heard(listener, speaker, since).IsZero()
				})
				at = append(at, heard(listener, speaker, since).Sub(since))
			}
			first, last = append(first, slices.Min(at)), append(last, slices.Max(at))
		}
		slices.Sort(first)
		slices.Sort(last)
		return first, last
	}
	everybody(time.Now())
	down := time.Now()
	stopped, err := s.stop(patience)
	require.NoError(t, err)
	gone := time.Now()
	require.NoError(t, s.start())
	ready := time.Now()
	first, last := everybody(gone)
	after := gone.Sub(down)
	ms := func(d time.Duration) int64 { return (after + d).Milliseconds() }
	t.Logf("the stop took %d ms, the start %d ms; after the signal people heard the first of the others at %d to %d ms, all of them at %d to %d ms",
		stopped.Milliseconds(), ready.Sub(gone).Milliseconds(), ms(first[0]), ms(first[9]), ms(last[0]), ms(last[9]))
}
