package program

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
	"parlor/server/config"
)

// tell makes a call of REST as the operator, and reads the answer.
func (h *house) tell(method, path string, answer any) int {
	h.t.Helper()
	status, body := h.operate(method, "/v1"+path, "", "")
	if status < 300 {
		require.NoError(h.t, json.Unmarshal([]byte(body), answer), "%s", body)
	}
	return status
}

// Each start is told of, with whether the one before stopped in order; what the replica has;
// and copies of the database are made beside it, of which five are kept.
func TestStartsAndCopies(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "parlor.db")
	replica := config.Setting{Path: "replica", Value: "file://" + filepath.Join(t.TempDir(), "replica"), From: "test"}
	h := start(t, path, replica)
	require.NoError(t, h.stop())
	h = start(t, path, replica)
	_, err := h.store.NoteStart(t.Context(), log.Start{AtMs: 1, Version: "crashed"}) // as a process that ended here
	require.NoError(t, err)
	var starts struct {
		Starts []struct {
			ID             int
			Version, State string
			Ready          float64  `json:"ready_seconds"`
			Stop           *float64 `json:"stop_seconds"`
		}
	}
	require.Equal(t, 200, h.tell("GET", "/starts", &starts))
	require.Equal(t, "broken_off", starts.Starts[0].State, "another process's")
	require.Equal(t, "running", starts.Starts[1].State)
	require.NoError(t, h.stop())
	h = start(t, path, replica)
	require.Equal(t, 200, h.tell("GET", "/starts", &starts))
	var states []string
	for _, s := range starts.Starts {
		states = append(states, s.State)
		require.Equal(t, s.State == "stopped", s.Stop != nil)
	}
	require.Equal(t, []string{"running", "broken_off", "stopped", "stopped"}, states)
	require.Positive(t, starts.Starts[0].Ready)
	require.Equal(t, version(), starts.Starts[0].Version)

	var replicated struct {
		Generations []struct {
			Generation, Files int
			From, To          *string
		}
	}
	require.Equal(t, 200, h.tell("GET", "/replica/generations", &replicated))
	require.NotEmpty(t, replicated.Generations)
	require.Positive(t, replicated.Generations[0].Files)
	require.NotNil(t, replicated.Generations[0].From)

	for _, stamp := range []string{"20200101T000000Z", "20200102T000000Z", "20200103T000000Z", "20200104T000000Z", "20200105T000000Z"} {
		require.NoError(t, os.WriteFile(path+"."+stamp+".backup", nil, 0o600))
	}
	require.NoError(t, os.WriteFile(path+".v1.backup", nil, 0o600))                // of a migration
	unfinished := filepath.Join(dir, ".parlor.db.20200106T000000Z.backup.123.new") // of a crash
	require.NoError(t, os.WriteFile(unfinished, nil, 0o600))
	var made struct {
		File  string
		Bytes int64
	}
	require.Equal(t, 201, h.tell("POST", "/backups", &made))
	require.Positive(t, made.Bytes)
	var list struct{ Backups []struct{ File string } }
	require.Equal(t, 200, h.tell("GET", "/backups", &list))
	require.Len(t, list.Backups, 5)
	require.Equal(t, made.File, list.Backups[0].File)
	require.NoFileExists(t, path+".20200101T000000Z.backup")
	require.FileExists(t, path+".v1.backup")
	require.NoFileExists(t, unfinished)

	// The clock was ahead when there were five. A second later the next copy may be made.
	for _, copied := range list.Backups {
		require.NoError(t, os.Remove(copied.File))
	}
	for _, stamp := range []string{"29990101T000000Z", "29990102T000000Z", "29990103T000000Z", "29990104T000000Z", "29990105T000000Z"} {
		require.NoError(t, os.WriteFile(path+"."+stamp+".backup", nil, 0o600))
	}
	require.Eventually(t, func() bool { return h.tell("POST", "/backups", &made) == 201 }, time.Minute, 10*time.Millisecond)
	require.FileExists(t, made.File)
	require.NoFileExists(t, path+".29990101T000000Z.backup")
	require.FileExists(t, path+".29990102T000000Z.backup")
	require.NoError(t, h.stop())
	copied := start(t, made.File)
	require.Equal(t, 200, copied.tell("GET", "/starts", &starts))
	require.Len(t, starts.Starts, 5)
	require.Equal(t, "broken_off", starts.Starts[1].State, "the one that the copy was made in")
}
