package program

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/coder/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/server/config"
)

// ask runs a command against the house, and returns its output. The command must succeed.
func (h *house) ask(args ...string) string {
	h.t.Helper()
	status, out, errs := command(h.t, nil, append(args, "--dev", "--url", h.url)...)
	require.Zero(h.t, status, "%v: %s", args, errs)
	requireSafe(h.t, out)
	return out
}

// requireSafe checks that the text has no control characters for the terminal.
func requireSafe(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		require.True(t, r == '\n' || unicode.IsPrint(r), "%q", text)
	}
}

// joins makes a participant join the room, without media, until the test ends.
func (h *house) joins(room, identity string) {
	h.t.Helper()
	url := "ws" + strings.TrimPrefix(h.url, "http") + "/rtc?protocol=17&access_token=" + issue(h.t, "--room", room, "--identity", identity)
	conn, _, err := websocket.Dial(h.t.Context(), url, nil)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.CloseNow() })
	_, _, err = conn.Read(h.t.Context())
	require.NoError(h.t, err)
}

func TestCommandsShowAndChangeRooms(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	require.Equal(t, "no rooms\n", h.ask("rooms"))
	for _, name := range []string{"board", "..", "a/b?c=d#e %"} {
		_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: name, EmptyTimeout: rooms.WireNever})
		require.NoError(t, err)
		require.Contains(t, h.ask("room", name), "room        "+name+"\n", "whatever its name")
	}
	h.joins("board", "ada")
	out := h.ask("rooms")
	require.Regexp(t, `(?m)^NAME +PEOPLE +PUBLISHING +OPENED +ENDS`, out)
	require.Regexp(t, `(?m)^board +1 +0 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +- +-`, out)
	require.Regexp(t, `(?m)^\.\. +0 +0 .* never +-`, out)
	require.Regexp(t, `(?m)^ada +- +joined`, h.ask("room", "board"))

	require.Equal(t, "board is locked: nobody new may join\n", h.ask("room", "board", "--lock"))
	require.Contains(t, h.ask("room", "board"), "state       locked")
	require.Equal(t, "board is open to newcomers\n", h.ask("room", "--unlock", "board"))
	require.Equal(t, "board is muted: 0 tracks, and stays so until --release\n", h.ask("room", "board", "--mute", "--hold"))
	require.Contains(t, h.ask("room", "board"), "state       held muted")
	require.Equal(t, "board is not held muted\n", h.ask("room", "board", "--release"))
	require.Equal(t, "board is without ada\n", h.ask("room", "board", "--remove", "ada"))
	require.Equal(t, "board is closed\n", h.ask("room", "board", "--close"))
	require.NotContains(t, h.ask("rooms"), "board")
	require.Regexp(t, `(?m)^board +RM_\w+ .* closed`, h.ask("rooms", "--ended"))
	require.Equal(t, "no rooms\n", h.ask("rooms", "--prefix", "x"))

	var room struct {
		Room   struct{ Name string }
		People struct{ Participants []any }
	}
	require.NoError(t, json.Unmarshal([]byte(h.ask("room", "..", "--json")), &room))
	require.Equal(t, "..", room.Room.Name)
	require.NotNil(t, room.People.Participants)
	require.Equal(t, 2, strings.Count(h.ask("rooms", "--json"), "\n"), "one a line")
}

// TestNothingThatOthersNameReachesTheTerminalAsItIs: a name must not clear the screen,
// set the window's title, or be shown from right to left.
func TestNothingThatOthersNameReachesTheTerminalAsItIs(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	const evil = "e\x1b[2J\x1b]0;owned\a\u009b31m\u202evil\nNAME\t\u2028x"
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: evil, EmptyTimeout: rooms.WireNever, Metadata: evil})
	require.NoError(t, err)
	h.joins(evil, evil)
	require.Contains(t, h.ask("rooms"), `e\x1b[2J\x1b]0;owned\x07\u{9b}31m\u{202e}vil\x0aNAME`)
	require.Contains(t, h.ask("room", evil), `\x1b[2J`)
	require.Contains(t, h.ask("events"), `\x1b[2J`)
	for _, line := range []string{h.ask("rooms", "--json"), h.ask("rooms", "--json", "--prefix", "e")} {
		var room struct{ Name, Metadata string }
		require.NoError(t, json.Unmarshal([]byte(line), &room), line)
		require.Equal(t, evil, room.Name, "JSON keeps what it is")
		require.Equal(t, evil, room.Metadata)
	}
	_ = h.ask("events", "--json")
	_ = h.ask("room", evil, "--json")
	_, out, errs := command(t, nil, "room", "x\x1b[2J", "--dev", "--url", h.url)
	requireSafe(t, out+errs)
	require.Equal(t, strings.Repeat("y", 3)+"…", printable("yyyyy", 3))
}

func TestCommandsFollowEventsOverARestart(t *testing.T) {
	database := filepath.Join(t.TempDir(), "parlor.db")
	h := start(t, database)
	port := h.url[strings.LastIndex(h.url, ":")+1:]
	for range 60 {
		_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "before", EmptyTimeout: rooms.WireNever})
		require.NoError(t, err)
		require.NoError(t, h.rooms.Delete(t.Context(), "before", nil))
	}
	require.Equal(t, tail, strings.Count(h.ask("events"), "\n"), "the newest")
	require.Equal(t, 120, strings.Count(h.ask("events", "--after", "0"), "\n"), "all")
	require.Equal(t, 120, strings.Count(h.ask("events", "--room", "before", "--json"), "\n"))
	require.Equal(t, 60, strings.Count(h.ask("events", "--type", "room_finished"), "\n"))
	require.Equal(t, 1, strings.Count(h.ask("events", "--after", "119"), "\n"))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		status := Run(ctx, Environment{Args: []string{"events", "--follow", "--dev", "--url", h.url, "--after", "120"}, Out: w, Err: io.Discard})
		_ = w.Close() // closing a pipe never fails
		ended <- status
	}()
	lines := bufio.NewScanner(r)
	shows := func(what, room string) {
		t.Helper()
		require.True(t, lines.Scan(), "the stream ended")
		require.Regexp(t, `^\d+ +\d{4}-.* `+what+` +`+room, lines.Text())
	}
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "now", EmptyTimeout: rooms.WireNever})
	require.NoError(t, err)
	shows("room_started", "now")
	require.NoError(t, h.stop())
	h = start(t, database, config.Setting{Path: "port", Value: port, From: "test"})
	require.NoError(t, h.rooms.Delete(t.Context(), "now", nil))
	shows("room_finished", "now")
	cancel()
	require.Zero(t, <-ended, "Ctrl-C is how one stops following")
	require.False(t, lines.Scan(), "each event was shown once")
}

func TestCommandsLookAfterWebhooks(t *testing.T) {
	got := make(chan string, 8)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct{ Event string }
		if json.NewDecoder(r.Body).Decode(&e) == nil {
			got <- e.Event
		}
	}))
	defer receiver.Close()
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"),
		config.Setting{Path: "webhook.endpoints", Value: "[{url: '" + receiver.URL + "', name: billing}, {url: '" + receiver.URL + "/two'}]", From: "test"},
		config.Setting{Path: "webhook.api_key", Value: "devkey", From: "test"})
	require.Regexp(t, `(?m)^1 +billing +on +0 +- +0 +-`, h.ask("webhooks"))
	require.Equal(t, "billing is paused: its events wait\n", h.ask("webhooks", "pause", "billing"))
	require.Contains(t, h.ask("webhooks", "pause", receiver.URL+"/two"), "is paused")
	_, err := h.rooms.Create(t.Context(), &livekit.CreateRoomRequest{Name: "r", EmptyTimeout: rooms.WireNever})
	require.NoError(t, err)
	require.Regexp(t, `(?m)^1 +billing +paused +1 +\d+s +0`, h.ask("webhooks"))
	require.Equal(t, "billing is on\n", h.ask("webhooks", "resume", "1"))
	require.Equal(t, "room_started", <-got)
	require.Regexp(t, `^billing gets a test event, with seq \d+\n$`, h.ask("webhooks", "test", "billing"))
	<-got
	require.Equal(t, "billing gets 0 events again\n", h.ask("webhooks", "replay", "billing"))
	require.Equal(t, 2, strings.Count(h.ask("webhooks", "--json"), `"pending"`))
	_, _, errs := command(t, nil, "webhooks", "pause", "nobody", "--dev", "--url", h.url)
	require.Contains(t, errs, "there is no endpoint nobody")
}

func TestCommandsTellHowTheServerFares(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	out := h.ask("status")
	require.Contains(t, out, "server       "+h.url+", version ")
	require.Contains(t, out, "rooms        0 open")
	require.Contains(t, h.ask("status", "--json"), `"uptime_seconds":`)
	for _, wrong := range []string{
		`{"database":{"failing":"disk I/O error"}}`, `{"replication":{"state":"lost"}}`, `{"rooms":{"overdue":2}}`, `{"rooms":{"stuck":1}}`,
		`{"replication":{"state":"held","stage":"upload","last_error":"no route"}}`, `{"certificate":{"last_error":"no DNS"}}`,
	} {
		var s statusAnswer
		require.NoError(t, json.Unmarshal([]byte(wrong), &s))
		require.Error(t, s.wrong(), wrong)
	}
}

// TestCommandsSayWhatIsWrong in a sentence, and by the exit status.
func TestCommandsSayWhatIsWrong(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/status" {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
			return
		}
		http.Error(w, "\x1b[2Jnginx", http.StatusBadGateway)
	}))
	defer other.Close()
	bare := httptest.NewUnstartedServer(nil) // as a server is until it gets its certificate
	bare.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	bare.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("no certificate") }}
	bare.StartTLS()
	defer bare.Close()
	const secret = "0123456789abcdef0123456789abcdef"
	for _, tc := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"rooms", "--dev", "--url", "http://" + closed.Addr().String()}, 1, "no server runs at http://" + closed.Addr().String()},
		{[]string{"rooms", "--url", h.url, "--api-key", "devkey", "--api-secret", secret}, 1, "the server does not take the API key"},
		{[]string{"rooms", "--url", h.url, "--dev", "--api-key", "nobody"}, 1, "the configuration has no API key nobody"},
		{[]string{"rooms"}, 1, "name the configuration with --config"},
		{[]string{"rooms", "--api-key", "devkey", "--api-secret", secret}, 1, "--url is missing"},
		{[]string{"rooms", "--dev", "--url", "localhost:7880"}, 1, "--url must be as https://calls.example"},
		{[]string{"rooms", "--dev", "--url", other.URL}, 1, "is not Parlor: 502 Bad Gateway"},
		{[]string{"status", "--dev", "--url", other.URL}, 1, "is not Parlor: 302 Found"},
		{[]string{"rooms", "--dev", "--url", "https" + strings.TrimPrefix(h.url, "http")}, 1, "does not speak TLS"},
		{[]string{"rooms", "--dev", "--url", bare.URL}, 1, "such as that it has no certificate yet"},
		{[]string{"room", "absent", "--dev", "--url", h.url}, 1, "parlor: "},
		{[]string{"room", "--dev", "--url", h.url}, 2, "the room's name is missing"},
		{[]string{"room", "a", "b", "--dev"}, 2, `"b" is not a command or flag`},
		{[]string{"room", "a", "--lock", "--close", "--dev"}, 2, "only one of"},
		{[]string{"room", "a", "--hold", "--dev"}, 2, "--hold is for --mute"},
		{[]string{"webhooks", "stop", "x", "--dev"}, 2, `"stop" is not pause, resume, replay or test`},
		{[]string{"webhooks", "pause", "--dev"}, 2, "name the endpoint to pause"},
		{[]string{"events", "--after", "x", "--dev", "--url", h.url}, 1, "after must be a cursor"},
		{[]string{"events", "--follow", "--dev", "--url", "http://" + closed.Addr().String()}, 1, "no server runs at"},
	} {
		status, out, errs := command(t, nil, tc.args...)
		require.Equal(t, tc.status, status, "%v: %s", tc.args, errs)
		require.Empty(t, out, tc.args)
		require.Contains(t, errs, tc.want, tc.args)
		requireSafe(t, errs)
	}
	_, _, errs := command(t, nil, "rooms", "--dev", "--url", "http://192.0.2.1.invalid")
	require.Contains(t, errs, "the API secret goes to 192.0.2.1.invalid unencrypted")
	status, out, _ := command(t, nil, "room", "--", "--close", "--dev")
	require.Equal(t, 2, status, "what follows -- is a name")
	require.Empty(t, out)
}

// servedFingerprint is that of a server's certificate, as browsers show it.
func servedFingerprint(t *testing.T, url string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "http://"), &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer conn.Close()
	sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

// TestCommandsFindTheServerOfTheConfiguration, over TLS with the self-signed certificate
// that it names.
func TestCommandsFindTheServerOfTheConfiguration(t *testing.T) {
	for bind, want := range map[string]string{
		"": "http://127.0.0.1:7880", "0.0.0.0": "http://127.0.0.1:7880", "::": "http://[::1]:7880",
		"192.0.2.1": "http://192.0.2.1:7880", "127.0.0.2,127.0.0.1": "http://127.0.0.2:7880",
	} {
		flags := []config.Setting{{Path: "keys", Value: "k: 0123456789abcdef0123456789abcdef", From: "test"}}
		if bind != "" {
			flags = append(flags, config.Setting{Path: "bind_addresses", Value: bind, From: "test"})
		}
		cfg, _, err := config.Load(config.Sources{Flags: flags})
		require.NoError(t, err)
		got, err := localURL(cfg)
		require.NoError(t, err)
		require.Equal(t, want, got, bind)
	}

	dir := t.TempDir()
	tls := func(folder, name string) []config.Setting {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, folder), 0o755))
		writeCertificate(t, filepath.Join(dir, folder), name)
		return []config.Setting{
			{Path: "tls.cert_file", Value: filepath.Join(dir, folder, "cert.pem"), From: "test"},
			{Path: "tls.key_file", Value: filepath.Join(dir, folder, "key.pem"), From: "test"},
		}
	}
	h := start(t, filepath.Join(dir, "parlor.db"), tls("one", "calls.example")...)
	file := filepath.Join(dir, "parlor.yaml")
	port := h.url[strings.LastIndex(h.url, ":")+1:]
	configure := func(tls []config.Setting) {
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "development: true\nbind_addresses: [127.0.0.1]\nport: %s\ntls: {cert_file: %s, key_file: %s}\n",
			port, tls[0].Value, tls[1].Value), 0o600))
	}
	configure(tls("one", "calls.example"))
	status, _, errs := command(t, nil, "rooms", "--config", file)
	require.Equal(t, 1, status, "the secret is for the server of the configuration alone")
	require.Contains(t, errs, "it is not the one of tls.cert_file")
	h.certificate.readAgain()
	require.Eventually(t, func() bool {
		status, _, _ = command(t, nil, "rooms", "--config", file)
		return status == 0
	}, time.Minute, 20*time.Millisecond, "the server has read what is in the file")
	_, out, _ := command(t, nil, "status", "--config", file)
	require.Regexp(t, `certificate +for calls\.example, \d+ days? left`, out)
	status, _, errs = command(t, nil, "rooms", "--dev", "--url", "https://127.0.0.1:"+port)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "the certificate of https://127.0.0.1:"+port+" cannot be believed")

	own := filepath.Join(dir, "own", "parlor.db")
	require.NoError(t, os.MkdirAll(filepath.Dir(own), 0o755))
	var log transcript
	h = startLogging(t, own, slog.New(slog.NewTextHandler(&log, nil)), config.Setting{Path: "tls.self_signed", Value: "true", From: "test"})
	require.Contains(t, log.String(), "sha256="+servedFingerprint(t, h.url)+" ", "people compare it with what a browser shows")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "development: true\nbind_addresses: [127.0.0.1]\nport: %s\ntls: {self_signed: true}\ndatabase: %s\n",
		h.url[strings.LastIndex(h.url, ":")+1:], own), 0o600))
	status, _, errs = command(t, nil, "rooms", "--config", file)
	require.Equal(t, 0, status, errs)
}

func TestDurationsForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 1500 * time.Millisecond: "2s", 90 * time.Second: "1m", 3 * time.Hour: "3h00m", 50 * time.Hour: "2d",
	} {
		require.Equal(t, want, rounded(d))
	}
}

func TestCommandsInvite(t *testing.T) {
	h := start(t, filepath.Join(t.TempDir(), "parlor.db"), config.Setting{Path: "invitations", Value: "true", From: "test"})
	link := strings.TrimSpace(h.ask("invite", "board", "--uses", "2", "--name", "Ada"))
	require.Regexp(t, "^"+h.url+`/#invite=IN_\w+\.[\w-]{43}$`, link)
	id := link[strings.Index(link, "IN_"):strings.LastIndex(link, ".")]
	h.ask("invite", "other", "--host", "--valid", "0")
	require.Regexp(t, `(?m)^`+id+` +board +guest +Ada +0 of 2 +\d{4}-\d\d-\d\d \d\d:\d\d +usable$`, h.ask("invite", "--list"))
	require.Regexp(t, `(?m)^IN_\w+ +other +host +- +0 +for ever +usable$`, h.ask("invite", "other", "--list"))
	require.Empty(t, h.ask("invite", "board", "--revoke", id))
	all := h.ask("invite", "board", "--list", "--json")
	require.Contains(t, all, `"state":"revoked"`)
	require.NotContains(t, all, link[strings.LastIndex(link, ".")+1:])
	for _, wrong := range [][]string{{"invite"}, {"invite", "board", "--valid", "-1h"}, {"invite", "--list", "--revoke", "x"}} {
		status, _, _ := command(t, nil, append(wrong, "--dev", "--url", h.url)...)
		require.Equal(t, 2, status, wrong)
	}
	status, _, errs := command(t, nil, "invite", "board", "--revoke", "IN_0", "--dev", "--url", h.url)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "no such invitation")
}
