package program

import (
	"bufio"
	"bytes"
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"github.com/twitchtv/twirp"
)

// TestADatabaseThatCannotBeServed: the program reports the problem and ends. It does not
// begin a new database, and changes nothing.
func TestADatabaseThatCannotBeServed(t *testing.T) {
	made := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "parlor.db")
		require.NoError(t, start(t, path).stop())
		return path
	}
	for _, tc := range []struct {
		name string
		path func(t *testing.T) string
		want string
	}{
		{"damaged", func(t *testing.T) string {
			path := made(t)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte(strings.Repeat("\xff", 3000)), 100) // the schema
			require.NoError(t, err)
			require.NoError(t, f.Close())
			return path
		}, "it is damaged: restore it from a replica or a backup"},
		{"of something else", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "parlor.db")
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600))
			return path
		}, "it is not an SQLite database"},
		{"newer", func(t *testing.T) string {
			path := made(t)
			db, err := sql.Open("sqlite", path)
			require.NoError(t, err)
			_, err = db.Exec("PRAGMA user_version = 999")
			require.NoError(t, err)
			require.NoError(t, db.Close())
			return path
		}, "version is 999"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := tc.path(t)
			before, err := os.ReadFile(path)
			require.NoError(t, err)
			status, _, errs := command(t, nil, "--dev", "--port", "0", "--udp-port", "0", "--tcp-port", "0", "--database", path)
			require.Equal(t, 1, status)
			require.Contains(t, errs, tc.want)
			require.Contains(t, errs, path)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, string(before) == string(after), "the file was changed")
		})
	}
}

// damage overwrites all but the first page of a database that a server has open, as a bad
// disk does, and returns the original file. A write by another process makes the server
// drop its cached pages.
func damage(t *testing.T, path string) (whole []byte) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	require.NoError(t, err)
	_, err = db.Exec("UPDATE meta SET epoch = epoch")
	require.NoError(t, err)
	require.Eventually(t, func() bool { // a reader of the server may hold a lock
		var busy, frames, moved int
		err := db.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
		return err == nil && busy == 0
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, db.Close())
	whole, err = os.ReadFile(path)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	const page = 4096
	_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, len(whole)-page), page)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return whole
}

// metric is the value of a metric without labels.
func (p *process) metric(name string) float64 {
	p.t.Helper()
	resp, err := http.Get(p.url + "/metrics")
	require.NoError(p.t, err)
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			require.NoError(p.t, err)
			return v
		}
	}
	require.Fail(p.t, "no metric "+name)
	return 0
}

// TestADatabaseDamagedUnderTheServer: calls continue, requests that need the database are
// refused with the reason, the operator is told, and no work is wasted. With the database
// restored, all acknowledged changes are there.
func TestADatabaseDamagedUnderTheServer(t *testing.T) {
	t.Parallel()
	home := machine(t)
	path := filepath.Join(home, "parlor.db")
	s := spawn(t, home, "{}")
	ctx := as(t.Context(), "lobby")
	room, err := s.roomService().CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "lobby", Metadata: "kept"})
	require.NoError(t, err)
	ada, bob := s.call("lobby", "ada"), s.call("lobby", "bob")
	whole := damage(t, path)

	refused := func(err error) {
		t.Helper()
		e, ok := err.(twirp.Error)
		require.True(t, ok, "%v", err)
		require.Equal(t, twirp.Unavailable, e.Code(), e.Msg())
		require.Contains(t, e.Msg(), "it is damaged: restore it from a replica or a backup")
	}
	_, err = s.roomService().CreateRoom(as(t.Context(), "other"), &livekit.CreateRoomRequest{Name: "other"})
	refused(err)
	_, err = s.roomService().UpdateRoomMetadata(ctx, &livekit.UpdateRoomMetadataRequest{Room: "lobby", Metadata: "refused"})
	refused(err)
	require.Equal(t, http.StatusServiceUnavailable, s.get("/readyz", nil), "balancers look elsewhere, though nothing was written yet")
	server := asWhom(t.Context(), "lobby", "") // no ban can concern it
	_, err = s.roomService().UpdateRoomMetadata(server, &livekit.UpdateRoomMetadataRequest{Room: "lobby", Metadata: "refused"})
	refused(err)
	require.Equal(t, http.StatusServiceUnavailable, s.get("/readyz", nil), "balancers look elsewhere")
	require.Equal(t, http.StatusOK, s.get("/healthz", nil), "it is not to be restarted")
	var status struct {
		Rooms    struct{ Open, Participants *int }
		Database struct{ Failing string }
	}
	require.Equal(t, http.StatusOK, s.get("/v1/status", &status), "what is known is told")
	require.Contains(t, status.Database.Failing, "malformed")
	require.Equal(t, 2, *status.Rooms.Participants)
	require.Nil(t, status.Rooms.Open)

	require.NoError(t, send(t.Context(), ada.conn, &livekit.SignalRequest{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{}}}))
	<-ada.last
	here, err := s.roomService().ListParticipants(server, &livekit.ListParticipantsRequest{Room: "lobby"})
	require.NoError(t, err, "the call does not need the database")
	require.Len(t, here.Participants, 1)
	require.Equal(t, "bob", here.Participants[0].Identity)
	select {
	case <-bob.last:
		require.Fail(t, "the call did not go on")
	default:
	}

	// The figures from the database are missing, but this one is not.
	require.Equal(t, 1.0, s.metric("parlor_database_failing"))
	logged, tries := len(s.log.String()), s.metric("parlor_database_failures_total")
	time.Sleep(3 * time.Second) // the process uses the real clock
	tries = s.metric("parlor_database_failures_total") - tries
	require.NotZero(t, tries, "it is tried whether the database can be written again")
	require.Less(t, tries, 15.0, "and not without a pause")
	require.Less(t, len(s.log.String())-logged, 2000, "the log is not flooded")
	require.Equal(t, 1, strings.Count(s.log.String(), `msg="the database cannot be written"`), "an operator finds the beginning")

	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.exit(2 * stopBound)
	require.Equal(t, livekit.LeaveRequest_RECONNECT, (<-bob.last).GetLeave().GetAction())

	for _, beside := range []string{"-wal", "-shm"} {
		require.NoError(t, os.RemoveAll(path+beside))
	}
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	s = spawn(t, home, "{}")
	require.NotEmpty(t, s.url, s.log)
	list, err := s.roomService().ListRooms(ctx, &livekit.ListRoomsRequest{})
	require.NoError(t, err)
	require.Len(t, list.Rooms, 1)
	require.Equal(t, room.Sid, list.Rooms[0].Sid)
	require.Equal(t, "kept", list.Rooms[0].Metadata)
	require.EqualValues(t, 2, list.Rooms[0].NumParticipants, "they are expected back")
}
