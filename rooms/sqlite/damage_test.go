package sqlite

import (
	"fmt"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/rooms"
	"parlor/rooms/log"
)

// damaged runs a statement that no part of the program would.
func damaged(t *testing.T, s *Store, statement string) {
	t.Helper()
	require.NoError(t, s.do(t.Context(), func(x *tx) error {
		_, err := x.exec(statement)
		return err
	}))
}

// TestARoomThatCannotBeEndedKeepsNoOtherOpen, however many of them are due before it, and
// leaves nothing half done.
func TestARoomThatCannotBeEndedKeepsNoOtherOpen(t *testing.T) {
	s := openNew(t)
	for i := range 6 {
		create(t, s, fmt.Sprint("r", i), int64(1000+i))
	}
	damaged(t, s, `CREATE TRIGGER no_end BEFORE INSERT ON event WHEN new.room_name IN ('r0', 'r1', 'r4') AND new.type = 'room_finished'
		BEGIN SELECT raise(ABORT, 'no'); END`)
	ended, err := s.EndDue(t.Context(), rooms.InstantOf(1<<60), 2)
	require.Error(t, err)
	require.Len(t, ended, 2)
	ended, err = s.EndDue(t.Context(), rooms.InstantOf(1<<60), 100)
	require.Error(t, err)
	require.Len(t, ended, 1)
	requireSound(t, s)
	damaged(t, s, `DROP TRIGGER no_end`)
	ended, err = s.EndDue(t.Context(), rooms.InstantOf(1<<60), 100)
	require.NoError(t, err)
	require.Len(t, ended, 3)
	requireSound(t, s)
}

// TestJobsAndDispatchesThatCannotBeRead: lists show the others and what columns tell of
// these, and the room ends with them.
func TestJobsAndDispatchesThatCannotBeRead(t *testing.T) {
	s := openNew(t)
	r := newRoom("tea", 1000)
	d := rooms.Dispatch{ID: "AD_1", RoomSID: r.SID, AgentName: "helper", CreatedMs: 1000, Info: &livekit.AgentDispatch{Id: "AD_1"}}
	j := rooms.Job{ID: "AJ_1", DispatchID: "AD_1", RoomSID: r.SID, Kind: rooms.AgentKind{AgentName: "helper"}, CreatedMs: 1000,
		Info: &livekit.Job{Id: "AJ_1", State: &livekit.JobState{Status: livekit.JobStatus_JS_RUNNING}}}
	_, err := submit(t, s, rooms.Change{Kind: rooms.ChangeCreate, Room: r, Dispatches: []rooms.Dispatch{d}, Jobs: []rooms.Job{j}})
	require.NoError(t, err)
	damaged(t, s, `UPDATE job SET info = x'ffffff'`)
	damaged(t, s, `UPDATE dispatch SET info = x'ffffff'`)
	jobs, err := s.ListJobs(t.Context(), rooms.JobCursor{}, 10)
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	require.Equal(t, livekit.JobStatus_JS_RUNNING, jobs[0].Status())
	dispatches, err := s.ListDispatches(t.Context(), rooms.DispatchCursor{}, 10)
	require.NoError(t, err)
	require.Len(t, dispatches, 1)
	require.EqualValues(t, 2, s.Stats().Damaged)
	ended, err := s.EndDue(t.Context(), rooms.InstantOf(1<<60), 10)
	require.NoError(t, err)
	require.Len(t, ended, 1)
	events, err := s.Events(t.Context(), log.Query{Limit: 10, Types: []string{log.JobEnded}})
	require.NoError(t, err)
	require.Len(t, events, 1)
}

// TestAFilterThatCannotBeRead lets every event through until it is written again, and keeps
// no server from starting.
func TestAFilterThatCannotBeRead(t *testing.T) {
	s := openNew(t)
	e := log.Endpoint{URL: "http://a", Include: []string{"room_started"}}
	endpoints(t, s, e)
	damaged(t, s, `UPDATE endpoint SET include = '7'`)
	path := s.path
	require.NoError(t, s.Close(t.Context()))
	s = openAt(t, path)
	all, err := s.EndpointStats(t.Context())
	require.NoError(t, err)
	require.Empty(t, all[0].Endpoint.Include)
	require.EqualValues(t, 1, s.Stats().Damaged)
	endpoints(t, s, e)
	all, err = s.EndpointStats(t.Context())
	require.NoError(t, err)
	require.Equal(t, e.Include, all[0].Endpoint.Include)
	require.Zero(t, s.Stats().Damaged)
}
