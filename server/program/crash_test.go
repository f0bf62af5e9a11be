package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"
)

// TestCrashes kills the real process at random moments, while clients of the room API and
// of signalling keep it busy, and reads the database after each kill. Acknowledged
// changes are there, unacknowledged ones are there completely or not at all, and the
// record is consistent. At the end the webhooks must have delivered the whole log.
//
// PARLOR_TEST_CRASHES sets the number of kills; otherwise it is 100, and with -short 10.
// 2,000 need -timeout 2h.
func TestCrashes(t *testing.T) {
	kills := 100
	if testing.Short() {
		kills = 10
	}
	if v := os.Getenv("PARLOR_TEST_CRASHES"); v != "" {
		var err error
		kills, err = strconv.Atoi(v)
		require.NoError(t, err)
	}
	const perDatabase = 50 // every check reads the whole database, so it must not grow without bound
	var all tally
	began := time.Now()
	for left := kills; left > 0; left -= perDatabase {
		c := newCrashes(t)
		for n := range min(left, perDatabase) {
			c.cycle(n)
		}
		c.settle()
		all.add(c.tally)
	}
	t.Logf("%d kills in %v: %+v", kills, time.Since(began).Round(time.Second), all)
	require.Positive(t, all.Closed, "the clients did something")
}

// tally counts the activity of a run, so that a run that tests nothing is noticed.
type tally struct {
	Acknowledged, CutShort      int // requests
	TakenUp                     int // sessions that were resumed under their SID
	Closed                      int // rooms
	Events, Sessions, Connected int // events in the log; sessions; sessions with media
	Deliveries, Duplicates      int
	SlowestStart                time.Duration
}

func (a *tally) add(b tally) {
	a.Acknowledged += b.Acknowledged
	a.CutShort += b.CutShort
	a.TakenUp += b.TakenUp
	a.Closed += b.Closed
	a.Events += b.Events
	a.Sessions += b.Sessions
	a.Connected += b.Connected
	a.Deliveries += b.Deliveries
	a.Duplicates += b.Duplicates
	a.SlowestStart = max(a.SlowestStart, b.SlowestStart)
}

// crashes is one database that is crashed repeatedly.
type crashes struct {
	*testing.T
	dir    string
	ports  [2]int // HTTP, and ICE over TCP
	hooks  *recorder
	owners []*owner
	crowd  *crowd
	tally  tally
	seen   history

	cmd    *exec.Cmd
	killed atomic.Bool // from now on failures are expected
}

const (
	longGrace  = 20 * time.Second // no participant is given up within a cycle
	shortGrace = 100 * time.Millisecond
)

func newCrashes(t *testing.T) *crashes {
	c := &crashes{T: t, dir: t.TempDir(), hooks: newRecorder(t), crowd: newCrowd(), seen: newHistory()}
	for i := range c.ports {
		c.ports[i] = freePort(t)
	}
	for i := range 4 {
		c.owners = append(c.owners, &owner{name: fmt.Sprintf("own-%d", i), crashes: c})
	}
	t.Cleanup(func() {
		if c.cmd != nil {
			c.kill()
		}
		if t.Failed() {
			if log, err := os.ReadFile(c.path("log")); err == nil {
				lines := strings.Split(string(log), "\n")
				t.Logf("the last of the server's log:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
			}
		}
	})
	return c
}

func (c *crashes) path(name string) string { return filepath.Join(c.dir, name) }
func (c *crashes) url() string             { return "http://127.0.0.1:" + strconv.Itoa(c.ports[0]) }

// launch starts the process, each time on the same port and the same database.
func (c *crashes) launch(grace time.Duration) {
	c.Helper()
	config := fmt.Sprintf(`{"restart_grace": %q, "webhook": {"api_key": "devkey", "urls": [%q]}, "logging": {"level": "info"}}`,
		grace, c.hooks.url)
	require.NoError(c, os.WriteFile(c.path("config.yaml"), []byte(config), 0o600))
	log, err := os.OpenFile(c.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(c, err)
	defer log.Close()
	c.cmd = exec.Command(plainBinary(c), "--dev", "--config", c.path("config.yaml"), "--bind", "127.0.0.1",
		"--port", strconv.Itoa(c.ports[0]), "--udp-port", "0", "--tcp-port", strconv.Itoa(c.ports[1]), "--database", c.path("parlor.db"))
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = c.dir, log, log
	c.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PARLOR_") })
	c.killed.Store(false)
	require.NoError(c, c.cmd.Start())
}

// kill kills the process, like a crash.
func (c *crashes) kill() {
	c.killed.Store(true)
	_ = c.cmd.Process.Kill() // it may have ended
	_ = c.cmd.Wait()         // killed
	c.cmd = nil
}

// await waits until the process serves.
func (c *crashes) await() {
	c.Helper()
	began := time.Now()
	for {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(c.url(), "http://")); err == nil {
			conn.Close()
			break
		}
		require.Less(c, time.Since(began), time.Minute, "the server does not come up")
		time.Sleep(2 * time.Millisecond) // a process can only be polled
	}
	c.tally.SlowestStart = max(c.tally.SlowestStart, time.Since(began))
}

// cycle is one life of the process.
func (c *crashes) cycle(n int) {
	c.Helper()
	giveUp := n%20 == 19 // in this life no participant returns in time
	grace := longGrace
	if giveUp {
		grace = shortGrace
	}
	c.launch(grace)
	if n%10 == 5 { // it may be killed during its start
		time.Sleep(rand.N(80 * time.Millisecond))
		c.kill()
		c.check()
		return
	}
	c.await()
	ctx, cancel := context.WithCancel(context.Background())
	transport := &http.Transport{MaxIdleConnsPerHost: 10}
	api := livekit.NewRoomServiceProtobufClient(c.url(), &http.Client{Transport: transport})
	var clients sync.WaitGroup
	for _, o := range c.owners {
		clients.Go(func() { o.live(ctx, api, giveUp) })
	}
	c.crowd.live(ctx, &clients, c, api)
	life := 20*time.Millisecond + rand.N(200*time.Millisecond)
	if n%10 == 3 || giveUp { // long enough for media to connect, and for deadlines
		life += time.Second
	}
	time.Sleep(life) // kills come at random moments
	c.kill()
	cancel()
	clients.Wait()
	transport.CloseIdleConnections()
	c.check()
}

// fail reports a failure that is not due to a kill.
func (c *crashes) fail(format string, args ...any) {
	if !c.killed.Load() {
		c.Errorf(format, args...)
	}
}

// settle lets the last process give up the participants that do not return, and end all
// rooms, and waits for the last webhook.
func (c *crashes) settle() {
	c.Helper()
	c.launch(shortGrace)
	c.await()
	api := livekit.NewRoomServiceProtobufClient(c.url(), http.DefaultClient)
	ctx := as(c.Context(), "")
	list, err := api.ListRooms(ctx, &livekit.ListRoomsRequest{})
	require.NoError(c, err)
	for _, room := range list.Rooms {
		if strings.HasPrefix(room.Name, "own") {
			_, err := api.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: room.Name})
			require.NoError(c, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	c.awaitQuiet(2 * time.Minute)
	require.NoError(c, c.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(c, c.cmd.Wait())
	c.cmd = nil
	for _, o := range c.owners {
		o.state, o.next = ownState{}, nil
	}
	c.check()
	c.checkWebhooks()
}

// as adds to a context the headers of a token with every permission, in one room.
func as(ctx context.Context, room string) context.Context { return asWhom(ctx, room, "backend") }

// asWhom is as for a token with that identity; "" is none, as in tokens of LiveKit's
// server SDKs.
func asWhom(ctx context.Context, room, identity string) context.Context {
	token, err := auth.NewAccessToken("devkey", "secret").SetIdentity(identity).SetValidFor(time.Hour).
		SetVideoGrant(&auth.VideoGrant{RoomCreate: true, RoomList: true, RoomAdmin: true, Room: room}).ToJWT()
	if err == nil {
		ctx, err = twirp.WithHTTPRequestHeaders(ctx, http.Header{"Authorization": {"Bearer " + token}})
	}
	if err != nil {
		panic(err) // neither can fail with these arguments
	}
	return ctx
}

// recorder receives webhooks and records all of them. It fails some, so that they are
// sent again.
type recorder struct {
	url string

	mu      sync.Mutex // guards the following
	order   map[string][]string
	bodies  map[string]string
	refused map[string]bool // ids of refused events; a second refusal would delay the third attempt by minutes
	twice   int
	wrong   []string
}

func newRecorder(t *testing.T) *recorder {
	r := &recorder{order: map[string][]string{}, bodies: map[string]string{}, refused: map[string]bool{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.url = "http://" + listener.Addr().String() + "/"
	server := http.Server{Handler: r}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender was killed during the request
	}
	var event struct {
		ID   string
		Room struct{ Sid string }
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(body, &event); err != nil {
		r.wrong = append(r.wrong, err.Error())
		return
	}
	if before, again := r.bodies[event.ID]; again {
		r.twice++
		if before != string(body) {
			r.wrong = append(r.wrong, "another body under the id "+event.ID)
		}
		return
	}
	if !r.refused[event.ID] && rand.N(200) == 0 {
		r.refused[event.ID] = true
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.bodies[event.ID] = string(body)
	r.order[event.Room.Sid] = append(r.order[event.Room.Sid], event.ID)
}
