package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/replica/s3test"
	"parlor/server/access"
	"parlor/server/config"
)

// TestMain releases what several tests share.
func TestMain(m *testing.M) {
	s3test.Environment()
	status := m.Run()
	s3Server.Stop()
	raced.remove()
	plain.remove()
	os.Exit(status)
}

// house is the whole program within this process.
type house struct {
	*program
	t    *testing.T
	url  string
	stop func() error // stops it in order; may be called once
}

func start(t *testing.T, database string, flags ...config.Setting) *house {
	t.Helper()
	return startLogging(t, database, slog.New(slog.DiscardHandler), flags...)
}

func startLogging(t *testing.T, database string, log *slog.Logger, flags ...config.Setting) *house {
	t.Helper()
	cfg, _, err := config.Load(config.Sources{Flags: append([]config.Setting{
		{Path: "development", Value: "true", From: "test"}, {Path: "port", Value: "0", From: "test"},
		{Path: "bind_addresses", Value: "127.0.0.1", From: "test"}, {Path: "database", Value: database, From: "test"},
	}, flags...)})
	require.NoError(t, err)
	p, err := open(t.Context(), cfg, log)
	require.NoError(t, err)
	h := &house{program: p, t: t, url: "http://" + p.listeners[0].Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.run(ctx) }()
	stopped := false
	h.stop = func() error {
		stopped = true
		cancel()
		if err := <-ran; err != nil {
			return err
		}
		bounded, done := context.WithTimeout(context.Background(), stopBound)
		defer done()
		http.DefaultClient.CloseIdleConnections()
		return p.close(bounded)
	}
	t.Cleanup(func() {
		if !stopped {
			require.NoError(t, h.stop())
		}
	})
	return h
}

func (h *house) get(path string) (int, string) {
	h.t.Helper()
	resp, err := http.Get(h.url + path)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	return resp.StatusCode, string(body)
}

func (h *house) roomService() (livekit.RoomService, context.Context) {
	token := issue(h.t, "--create", "--list")
	ctx, err := twirp.WithHTTPRequestHeaders(h.t.Context(), http.Header{"Authorization": {"Bearer " + token}})
	require.NoError(h.t, err)
	return livekit.NewRoomServiceProtobufClient(h.url, http.DefaultClient), ctx
}

// command runs a command line as main does.
func command(t testing.TB, environ []string, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status = Run(t.Context(), Environment{Args: args, Environ: environ, Out: &o, Err: &e})
	return status, o.String(), e.String()
}

func issue(t testing.TB, args ...string) string {
	t.Helper()
	status, out, errs := command(t, nil, append(append([]string{"token"}, args...), "--dev")...)
	require.Zero(t, status, errs)
	return strings.TrimSpace(out)
}

func TestProgramServes(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	for path, want := range map[string]string{"/": "OK", "/healthz": "ok\n", "/readyz": "ready\n"} {
		status, body := h.get(path)
		require.Equal(t, 200, status, path)
		require.Equal(t, want, body, path)
	}
	status, body := h.get("/static/app.js")
	require.Equal(t, 200, status)
	require.NotEmpty(t, body)

	status, body = h.get("/rtc/validate?access_token=" + issue(t, "--room", "r", "--identity", "i"))
	require.Equal(t, 200, status)
	require.Equal(t, "success", body)
	status, body = h.get("/rtc/validate")
	require.Equal(t, 401, status)
	require.Contains(t, body, "no permissions to access the room")

	c, ctx := h.roomService()
	_, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)
	_, body = h.get("/metrics")
	require.Contains(t, body, `parlor_rooms{state="open"} 1`)
	require.Contains(t, body, "parlor_database_commit_seconds_count")
	require.Contains(t, body, `parlor_media_refused_total{kind="sdp"} 0`)
	require.Contains(t, body, "go_goroutines")

	require.Contains(t, h.banner(), h.url[len("http://127.0.0.1"):])
	require.Contains(t, h.banner(), "http://localhost")
	require.Contains(t, h.banner(), "listens on "+h.url[len("http://"):])
	require.Contains(t, h.banner(), "devkey")
}

// TestTheBannerNamesWhatIsBound: localhost does not lead to every address.
func TestTheBannerNamesWhatIsBound(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), config.Setting{Path: "bind_addresses", Value: "127.0.0.2", From: "test"})
	require.Contains(t, h.banner(), "page       "+h.url+"/")
	require.Contains(t, h.banner(), "listens on 127.0.0.2:")
	require.NotContains(t, h.banner(), "localhost")
}

// TestASecondProgramIsToldOfItsPorts, and of each obstacle once.
func TestASecondProgramIsToldOfItsPorts(t *testing.T) {
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.LocalAddr().String())
	require.NoError(t, err)
	status, _, errs := command(t, nil, "--dev", "--port", "0", "--udp-port", port, "--tcp-port", "0",
		"--database", filepath.Join(t.TempDir(), "parlor.db"))
	require.Equal(t, 1, status)
	require.Equal(t, 1, strings.Count(errs, "listen for media"), errs)
	require.Contains(t, errs, port)
	require.Contains(t, errs, "--udp-port")
	require.Contains(t, errs, "--tcp-port")
}

// TestWhatIsInTheWayOfAPortIsTold, and the remedy.
func TestWhatIsInTheWayOfAPortIsTold(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	refused := func(args ...string) string {
		status, _, errs := command(t, nil, append([]string{"--dev", "--bind", "127.0.0.1", "--udp-port", "0", "--tcp-port", "0",
			"--database", filepath.Join(t.TempDir(), "parlor.db")}, args...)...)
		require.Equal(t, 1, status)
		return errs
	}
	errs := refused("--port", port)
	require.Contains(t, errs, port)
	require.Contains(t, errs, "another program has the port, such as a second Parlor; choose another with --port")

	config := filepath.Join(t.TempDir(), "parlor.yaml")
	require.NoError(t, os.WriteFile(config, []byte("prometheus: {port: "+port+"}\n"), 0o600))
	require.Contains(t, refused("--port", "0", "--config", config), "choose another with prometheus.port")
}

func TestErrorsOfPortsSayWhatToDo(t *testing.T) {
	require.NoError(t, portHint(nil, "--port"))
	err := portHint(fmt.Errorf("listen: %w", syscall.EACCES), "--port")
	require.ErrorIs(t, err, syscall.EACCES)
	require.ErrorContains(t, err, "cap_net_bind_service", "port 443, by a user that is not root")
	require.ErrorContains(t, err, "--port")
	require.ErrorContains(t, portHint(syscall.EADDRNOTAVAIL, "--port"), "this machine does not have the address")
	other := errors.New("something else")
	require.Equal(t, other, portHint(other, "--port"))
}

// TestS3WithoutCredentialsSaysWhichToGive: the library itself complains of a role that
// only machines at Amazon have.
func TestS3WithoutCredentialsSaysWhichToGive(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	status, _, errs := command(t, nil, "--dev", "--port", "0", "--database", filepath.Join(t.TempDir(), "parlor.db"),
		"--replica", "s3://bucket/path?endpoint=http://127.0.0.1:1")
	require.Equal(t, 1, status)
	require.Contains(t, errs, "there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
}

// TestAMistypedDatabaseIsNotMade: if its folder does not exist, it is misspelt, or a disk
// is not mounted.
func TestAMistypedDatabaseIsNotMade(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "mistyped")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // ends a server that did begin
	defer cancel()
	var errs bytes.Buffer
	status := Run(ctx, Environment{Args: []string{"--dev", "--port", "0", "--database", filepath.Join(folder, "parlor.db")}, Out: io.Discard, Err: &errs})
	require.Equal(t, 1, status)
	require.Contains(t, errs.String(), "there is no folder "+folder)
	require.NoDirExists(t, folder)
}

func TestRoomsOutliveTheProgram(t *testing.T) {
	database := filepath.Join(t.TempDir(), "parlor.db")
	h := start(t, database)
	c, ctx := h.roomService()
	room, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "r", EmptyTimeout: rooms.WireNever, Metadata: "m"})
	require.NoError(t, err)
	require.NoError(t, h.stop())

	h = start(t, database)
	c, ctx = h.roomService()
	list, err := c.ListRooms(ctx, &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.Len(t, list.Rooms, 1)
	require.Equal(t, room.Sid, list.Rooms[0].Sid)
	require.Equal(t, "m", list.Rooms[0].Metadata)
}

func TestDefaultsOfRooms(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		config.Setting{Path: "room.empty_timeout", Value: "never", From: "test"},
		config.Setting{Path: "room.departure_timeout", Value: "7", From: "test"},
		config.Setting{Path: "room.max_participants", Value: "9", From: "test"})
	c, ctx := h.roomService()
	room, err := c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)
	require.Equal(t, rooms.WireNever, room.EmptyTimeout)
	require.EqualValues(t, 7, room.DepartureTimeout)
	require.EqualValues(t, 9, room.MaxParticipants)
	require.Len(t, room.EnabledCodecs, 9)
}

func TestWebhooksAreSent(t *testing.T) {
	events := make(chan string, 10)
	receiver := http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct{ Event string }
		if json.NewDecoder(r.Body).Decode(&e) == nil {
			events <- e.Event
		}
	})}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = receiver.Serve(listener) }() // ends with Close
	defer receiver.Close()

	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		config.Setting{Path: "webhook.urls", Value: "http://" + listener.Addr().String(), From: "test"},
		config.Setting{Path: "webhook.api_key", Value: "devkey", From: "test"})
	c, ctx := h.roomService()
	_, err = c.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "r"})
	require.NoError(t, err)
	_, err = c.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: "r"})
	require.NoError(t, err)
	require.Equal(t, "room_started", <-events)
	require.Equal(t, "room_finished", <-events)
}

func TestOpenUndoesWhatItDidWhenItFails(t *testing.T) {
	dir := t.TempDir()
	h := start(t, filepath.Join(dir, "a.db"))
	cfg, _, err := config.Load(config.Sources{Flags: []config.Setting{
		{Path: "development", Value: "true", From: "test"}, {Path: "port", Value: h.url[strings.LastIndex(h.url, ":")+1:], From: "test"},
		{Path: "bind_addresses", Value: "127.0.0.1", From: "test"}, {Path: "rtc.udp_port", Value: "0", From: "test"},
		{Path: "rtc.tcp_port", Value: "0", From: "test"}, {Path: "database", Value: filepath.Join(dir, "b.db"), From: "test"},
	}})
	require.NoError(t, err)
	_, err = open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "address already in use")
	start(t, filepath.Join(dir, "b.db")) // it is not locked any more

	cfg.Database = filepath.Join(dir, "a.db")
	_, err = open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	require.Error(t, err, "the database is in use")
}

func TestTokenCommand(t *testing.T) {
	verifier := access.NewVerifier(map[string]string{"devkey": "secret"})
	c, err := verifier.Verify(issue(t, "create", "--room", "r", "--identity", "ada", "--name", "Ada", "--can-publish=false",
		"--can-publish-sources", "camera,microphone", "--attribute", "a=b", "--valid", "1h"))
	require.NoError(t, err)
	require.Equal(t, "ada", c.Grants.Identity)
	require.Equal(t, "Ada", c.Grants.Name)
	require.Equal(t, map[string]string{"a": "b"}, c.Grants.Attributes)
	require.Equal(t, "r", c.Grants.Video.Room)
	require.True(t, c.Grants.Video.RoomJoin)
	require.False(t, c.Grants.Video.GetCanPublish())
	require.Nil(t, c.Grants.Video.CanSubscribe, "what was not asked for stays at LiveKit's default")
	require.Equal(t, []string{"camera", "microphone"}, c.Grants.Video.CanPublishSources)
	require.WithinDuration(t, time.Now().Add(time.Hour), c.Expires, time.Minute)

	c, err = verifier.Verify(issue(t, "--admin", "--room", "r"))
	require.NoError(t, err)
	require.True(t, c.Grants.Video.RoomAdmin)
	require.False(t, c.Grants.Video.RoomJoin)

	const long = "0123456789abcdef0123456789abcdef"
	_, out, _ := command(t, []string{"LIVEKIT_KEYS=z: " + long + "\na: " + long}, "token", "--list")
	c, err = access.NewVerifier(map[string]string{"a": long}).Verify(strings.TrimSpace(out))
	require.NoError(t, err)
	require.Equal(t, "a", c.APIKey, "the first key of what is configured")
	_, out, _ = command(t, nil, "token", "--list", "--api-key", "k", "--api-secret", long)
	_, err = access.NewVerifier(map[string]string{"k": long}).Verify(strings.TrimSpace(out))
	require.NoError(t, err)

	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "nothing is granted"},
		{[]string{"--identity", "x"}, "--room is missing"},
		{[]string{"--list", "--valid", "0s"}, "--valid must be more than nothing"},
		{[]string{"--room", "r", "--identity", "x", "--can-publish-sources", "cam"}, `"cam" is not a source`},
		{[]string{"--list", "--api-secret", "x"}, "--api-secret needs --api-key"},
		{[]string{"--list", "--dev", "--api-key", "nobody"}, "no secret for API key nobody"},
		{[]string{"--list"}, "there is no API key to sign with: name the configuration with --config"},
		{[]string{"--list", "--api-key", "devkey"}, "there is no API key to sign with"},
		{[]string{"--list", "--config", "absent.yaml"}, "absent.yaml: cannot be read"},
	} {
		status, out, errs := command(t, nil, append([]string{"token"}, tc.args...)...)
		require.Equal(t, 1, status, tc.args)
		require.Empty(t, out)
		require.Contains(t, errs, tc.want)
	}
}

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		args      []string
		status    int
		out, errs string
	}{
		{[]string{"version"}, 0, "parlor ", ""},
		{[]string{"--version"}, 0, "parlor ", ""},
		{[]string{"help"}, 0, "parlor --dev", ""},
		{[]string{"--help"}, 0, "--udp-port port", ""},
		{[]string{"token", "--help"}, 0, "parlor token --room lobby --identity ada", ""},
		{[]string{"--prot", "1"}, 2, "", "flag provided but not defined: -prot\nsee parlor --help\n"},
		{[]string{"sevre"}, 2, "", "\"sevre\" is not a command or flag; see parlor --help\n"},
		{[]string{"--port", "x", "--dev"}, 1, "", "--port: port: must be a whole number"},
		{nil, 1, "", "keys: no API keys; set keys, key_file or LIVEKIT_KEYS, or start with --dev"},
		{[]string{"--config", "absent.yaml"}, 1, "", "absent.yaml: cannot be read: no such file or directory"},
		{[]string{"--dev", "--replica", "ftp://x"}, 1, "", "configure replica"},
		{[]string{"restore", "--help"}, 0, "parlor restore --replica", ""},
		{[]string{"restore", "--to", "x.db"}, 2, "", "--replica and --to are needed"},
	} {
		status, out, errs := command(t, nil, tc.args...)
		require.Equal(t, tc.status, status, "%v: %s", tc.args, errs)
		require.Contains(t, out, tc.out, tc.args)
		require.Contains(t, errs, tc.errs, tc.args)
	}
}

func TestSignals(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary(t), "--dev", "--port", "0", "--bind", "127.0.0.1")
	cmd.Dir = dir
	var logged bytes.Buffer
	cmd.Stderr = &logged
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	scanner, url := bufio.NewScanner(out), ""
	for url == "" && scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) == 2 && fields[0] == "page" {
			url = fields[1]
		}
	}
	require.NotEmpty(t, url, "the page's address is in the banner")
	require.Eventually(t, func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}, time.Minute, 10*time.Millisecond)
	http.DefaultClient.CloseIdleConnections()
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Process.Signal(os.Interrupt), "what comes with the first is the same request")
	_, _ = io.Copy(io.Discard, out)
	require.NoError(t, cmd.Wait(), logged.String())
	require.Contains(t, logged.String(), "reason=\"received ")
	require.Contains(t, logged.String(), "msg=stopped")
	require.FileExists(t, filepath.Join(dir, "parlor.db"))
}

// TestStopSendsClientsBack: a client that does not close its connection is told to
// reconnect, and does not delay the stop.
func TestStopSendsClientsBack(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	url := "ws" + strings.TrimPrefix(h.url, "http") + "/rtc?protocol=17&access_token=" + issue(t, "--room", "r", "--identity", "i")
	conn, _, err := websocket.Dial(t.Context(), url, nil)
	require.NoError(t, err)
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)

	ended := make(chan error, 1)
	began := time.Now()
	var last *livekit.SignalResponse
	for stopping := false; ; {
		_, b, err := conn.Read(t.Context())
		if err != nil {
			break
		}
		last = &livekit.SignalResponse{}
		require.NoError(t, proto.Unmarshal(b, last))
		if !stopping {
			stopping = true
			began = time.Now()
			go func() { ended <- h.stop() }()
		}
	}
	require.NoError(t, <-ended)
	require.Less(t, time.Since(began), stopBound)
	require.Equal(t, livekit.LeaveRequest_RECONNECT, last.GetLeave().GetAction(), "the last word: %v", last)
}

// TestALostDiskIsRestored loses the database, and starts with only the replica.
func TestALostDiskIsRestored(t *testing.T) {
	dir := t.TempDir()
	for _, machine := range []string{"a", "b"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, machine), 0o755))
	}
	replica := config.Setting{Path: "replica", Value: "file://" + filepath.Join(dir, "replica"), From: "test"}
	h := start(t, filepath.Join(dir, "a", "parlor.db"), replica)
	room, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "lobby", EmptyTimeout: rooms.WireNever, Metadata: "m"})
	require.NoError(t, err)
	require.NoError(t, h.stop())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "a")))

	h = start(t, filepath.Join(dir, "b", "parlor.db"), replica, config.Setting{Path: "expect_replica", Value: "true", From: "test"})
	list, err := h.rooms.List(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, room.Room.SID, list[0].Sid)
	require.Equal(t, "m", list[0].Metadata)
	require.Equal(t, "held", h.replication.Status().State)
	require.NoError(t, h.stop())

	status, out, errs := command(t, nil, "restore", "--replica", replica.Value, "--to", filepath.Join(dir, "c.db"))
	require.Equal(t, 0, status, errs)
	require.Contains(t, out, "restored ")

	_, _, errs = command(t, nil, "--dev", "--port", "0", "--udp-port", "0", "--tcp-port", "0", "--expect-replica",
		"--database", filepath.Join(dir, "d.db"), "--replica", "file://"+filepath.Join(dir, "mistyped"))
	require.Contains(t, errs, "nothing")
}

// TestReadmeListsTheKeys compares the README with the configuration's own table, which a
// test of server/config generates.
func TestReadmeListsTheKeys(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	require.NoError(t, err)
	reference, err := os.ReadFile(filepath.Join(repository, "server/config/testdata/reference.golden.md"))
	require.NoError(t, err)
	require.Contains(t, string(readme), strings.TrimSpace(string(reference)))
}
