package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/stretchr/testify/require"
)

// tour is the commands of the README's API tour, with their comments.
type tour struct {
	t        *testing.T
	commands []string
	env      []string
	address  string
}

func newTour(t *testing.T, s *server) *tour {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)A tour, against `go run \\. --dev`:\n\n```sh\n(.*?)```").FindStringSubmatch(string(readme))
	require.Len(t, found, 2, "the README has its tour")
	to := &tour{t: t, address: strings.TrimPrefix(s.http(), "http://")}
	for line := range strings.Lines(strings.ReplaceAll(found[1], "\\\n", " ")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			require.True(t, strings.HasPrefix(line, "curl "), line)
			to.commands = append(to.commands, line)
		}
	}
	// Options of curl beside the command: an error status makes curl fail too.
	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".curlrc"), []byte("silent\nshow-error\nfail-with-body\n"), 0o600))
	to.env = append(os.Environ(), "CURL_HOME="+home)
	return to
}

// history is the sessions of a room.
type history struct {
	Sessions []struct {
		Identity, Reason string
		Media            *struct {
			Up, Down    struct{ Bytes, Bitrate int64 }
			WorstMinute *struct{ Score float64 } `json:"worst_minute"`
		}
	}
}

// next is the tour's next command that contains part.
func (to *tour) next(part string) *exec.Cmd {
	to.t.Helper()
	require.NotEmpty(to.t, to.commands, part)
	line := to.commands[0]
	to.commands = to.commands[1:]
	require.Contains(to.t, line, part)
	require.Contains(to.t, line, "localhost:7880")
	return to.command(line)
}

// command is a curl command for the test's server.
func (to *tour) command(line string) *exec.Cmd {
	cmd := exec.CommandContext(to.t.Context(), "sh", "-c", "exec "+strings.ReplaceAll(line, "localhost:7880", to.address))
	cmd.Env = to.env
	return cmd
}

// run runs a command, and parses its answer into out unless that is nil.
func (to *tour) run(cmd *exec.Cmd, out any) {
	to.t.Helper()
	var errs strings.Builder
	cmd.Stderr = &errs
	answer, err := cmd.Output()
	require.NoError(to.t, err, "%v: %s%s", cmd.Args, answer, &errs)
	if out != nil {
		require.NoError(to.t, json.Unmarshal(answer, out), string(answer))
	}
}

// TestTheTourOfTheReadme runs the commands in their order, with another port and the SID
// of ada's microphone, and checks their answers and effects.
func TestTheTourOfTheReadme(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "curl is not installed")
		t.Skip("curl is not installed")
	}
	s := startServer(t, settings{"development": true, "keys": map[string]string{"devkey": "secret"}})
	to := newTour(t, s)

	var room struct{ Sid, Name, State string }
	to.run(to.next(`"name":"board"`), &room)
	require.Equal(t, "board", room.Name)
	require.True(t, strings.HasPrefix(room.Sid, "RM_"), room.Sid)

	var made struct{ Token string }
	to.run(to.next("/v1/tokens"), &made)
	ada := single.joinAt(t, s.ws(), made.Token)
	microphone := ada.publishMicrophone(t)

	live := to.next("text/event-stream")
	stream, err := live.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, live.Start())
	seen := make(chan string, 100)
	go func() { // ends with the command
		defer close(seen)
		for lines := bufio.NewScanner(stream); lines.Scan(); {
			if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				seen <- event
			}
		}
	}()
	t.Cleanup(func() { _ = live.Process.Kill(); _ = live.Wait() }) // as Ctrl-C
	sees := func(event string) {
		t.Helper()
		for got := range seen {
			if got == event {
				return
			}
		}
		require.Fail(t, "the stream ended", "before %s", event)
	}
	sees("track_published")

	var participants struct {
		Participants []struct{ Identity, State string }
	}
	to.run(to.next("/participants"), &participants)
	require.Len(t, participants.Participants, 1)
	require.Equal(t, "ada", participants.Participants[0].Identity)

	var stats struct {
		Participants []struct {
			Identity, Quality, Up string
			Tracks                []struct{ Sid, Source string }
		}
	}
	to.run(to.next("/board/stats"), &stats)
	require.Len(t, stats.Participants, 1)
	require.Equal(t, "ada", stats.Participants[0].Identity)
	require.Equal(t, "udp", stats.Participants[0].Up)
	require.Equal(t, "excellent", stats.Participants[0].Quality)
	require.Equal(t, microphone.SID(), stats.Participants[0].Tracks[0].Sid)

	type track struct {
		Sid, Source string
		Muted       bool
	}
	var tracks struct{ Tracks []track }
	to.run(to.next("/ada/tracks"), &tracks)
	require.Equal(t, []track{{Sid: microphone.SID(), Source: "microphone"}}, tracks.Tracks)
	mute := to.next("/tracks/TR_AMxxxxxxxxxxxx")
	mute.Args[2] = strings.ReplaceAll(mute.Args[2], "TR_AMxxxxxxxxxxxx", microphone.SID())
	var muted track
	to.run(mute, &muted)
	require.True(t, muted.Muted)
	sees("track_muted")

	to.run(to.next(`"hold":true`), nil)
	to.run(to.next("-X DELETE"), nil)

	runs := func() bool {
		var ada struct{ Host bool }
		to.run(to.command(`curl -u devkey:secret http://localhost:7880/v1/rooms/board/participants/ada`), &ada)
		return ada.Host
	}
	to.run(to.next("-X PUT"), nil)
	sees("host_added")
	require.True(t, runs())
	to.run(to.next("-X DELETE"), nil)
	sees("host_removed")
	require.False(t, runs())

	var locked struct{ Locked bool }
	to.run(to.next(`"locked":true`), &locked)
	require.True(t, locked.Locked)
	_, err = to.try(s, "bob")
	require.Error(t, err, "nobody new")

	// The session of ada has statistics of her media.
	const edit = `curl -u devkey:secret -X PATCH http://localhost:7880/v1/rooms/board/participants/ada -d '{"metadata":"%d"}' -H 'Content-Type: application/json'`
	const sessions = `curl -u devkey:secret http://localhost:7880/v1/history/%s/sessions`
	history, edits := history{}, 0
	eventually(t, "how ada's media fares is written", func() bool {
		edits++
		to.run(to.command(fmt.Sprintf(edit, edits)), nil)
		to.run(to.command(fmt.Sprintf(sessions, room.Sid)), &history)
		m := history.Sessions[0].Media
		return m != nil && m.Up.Bytes > 0 && m.WorstMinute != nil
	})
	sent := history.Sessions[0].Media.Up.Bytes

	to.run(to.next("-X DELETE"), nil)
	sees("room_finished")
	var ended struct {
		Rooms []struct {
			Sid, Name string
			EndReason string `json:"end_reason"`
		}
	}
	to.run(to.next("state=ended"), &ended)
	require.Len(t, ended.Rooms, 1)
	require.Equal(t, room.Sid, ended.Rooms[0].Sid)
	require.Equal(t, "closed", ended.Rooms[0].EndReason)

	of := to.next("RM_xxxxxxxxxxxx/sessions")
	of.Args[2] = strings.ReplaceAll(of.Args[2], "RM_xxxxxxxxxxxx", room.Sid)
	to.run(of, &history)
	require.Equal(t, "room_deleted", history.Sessions[0].Reason)
	require.GreaterOrEqual(t, history.Sessions[0].Media.Up.Bytes, sent)
	require.Positive(t, history.Sessions[0].Media.Up.Bitrate)
	require.Zero(t, history.Sessions[0].Media.Down.Bytes)
	require.Empty(t, to.commands, "the tour has gone on")
}

// try reports whether an identity may join.
func (to *tour) try(s *server, identity string) (string, error) {
	jwt, err := exec.CommandContext(to.t.Context(), env.binary, "token", "--dev", "--room", "board", "--identity", identity).Output()
	require.NoError(to.t, err)
	status, body, err := fetch(to.t.Context(), s.http()+"/rtc/validate?access_token="+strings.TrimSpace(string(jwt)))
	if err == nil && status != 200 {
		err = fmt.Errorf("%d %s", status, body)
	}
	return string(body), err
}

// TestTheCommandsOfTheReadme runs those for a running server, as they stand there.
func TestTheCommandsOfTheReadme(t *testing.T) {
	parlorOnly(t)
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)\\*\\*From a shell\\*\\*.*?```sh\n(.*?)```").FindStringSubmatch(string(readme))
	require.Len(t, found, 2, "the README has its commands")
	// The shared receiver takes other keys' deliveries for forged.
	billing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer billing.Close()
	s := startServer(t, settings{"development": true, "invitations": true, "keys": map[string]string{"devkey": "secret"},
		"webhook": map[string]any{"api_key": "devkey", "endpoints": []map[string]any{{"url": billing.URL, "name": "billing"}}}})
	_, err = lksdk.NewRoomServiceClient(s.http(), "devkey", "secret").CreateRoom(t.Context(), &livekit.CreateRoomRequest{Name: "board"})
	require.NoError(t, err)
	for line := range strings.Lines(found[1]) {
		words, _, _ := strings.Cut(line, "#")
		args := strings.Fields(words)
		require.Equal(t, "parlor", args[0], line)
		ctx, stop := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, env.binary, append(args[1:], "--dev", "--url", s.http())...)
		if strings.Contains(line, "--follow") { // it has no end
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			require.True(t, bufio.NewScanner(out).Scan(), line)
			stop()
			_ = cmd.Wait() // killed
			continue
		}
		out, err := cmd.CombinedOutput()
		stop()
		require.NoError(t, err, "%s%s", line, out)
		require.NotEmpty(t, out, line)
	}
}
