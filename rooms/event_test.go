package rooms_test

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"parlor/rooms"
	"parlor/rooms/log"
	"parlor/rooms/sqlite"
)

// TestEventsHoldWhatTheirTypesSay makes a room write an event of every type, and compares
// their bodies with the table.
func TestEventsHoldWhatTheirTypesSay(t *testing.T) {
	h := newHouse(t, withWorkers)
	ann := h.join("tea", "ann")
	sid := ann.publish(t, "mic", livekit.TrackSource_MICROPHONE)
	ann.Mute(&livekit.MuteTrackRequest{Sid: sid, Muted: true})
	ann.Mute(&livekit.MuteTrackRequest{Sid: sid})
	_, err := h.UpdateParticipant(t.Context(), &livekit.UpdateParticipantRequest{Room: "tea", Identity: "ann", Name: "Ann"})
	require.NoError(t, err)
	_, err = h.UpdateMetadata(t.Context(), &livekit.UpdateRoomMetadataRequest{Room: "tea", Metadata: "m"})
	require.NoError(t, err)
	h.setHost("tea", "ann", true)
	h.setHost("tea", "ann", false)
	_, err = h.try("tea", "bob") // its media never connects
	require.NoError(t, err)
	d, err := h.CreateDispatch(t.Context(), &livekit.CreateAgentDispatchRequest{Room: "tea", AgentName: "scribe"})
	require.NoError(t, err)
	job := d.State.Jobs[0].Id
	require.NoError(t, h.PostponeJob(t.Context(), "tea", job, 0))
	_, err = h.AssignJob(t.Context(), "tea", job, rooms.JobAnswer{WorkerID: "AW_1", Identity: "agent"})
	require.NoError(t, err)
	h.restart(withWorkers)
	h.join("tea", "ann")
	require.NoError(t, h.Delete(t.Context(), "tea"))

	types := map[string]log.Type{}
	for _, typ := range log.Types() {
		types[typ.Name] = typ
	}
	written := map[string]bool{}
	for _, e := range h.log() {
		written[e.Type] = true
		typ, known := types[e.Type]
		require.True(t, known, "%s is not in the table", e.Type)
		w := webhook(t, e)
		require.Equal(t, typ.Holds, log.Body{
			Room:        part(w.Room, &livekit.Room{Sid: w.Room.GetSid(), Name: w.Room.GetName()}),
			Participant: part(w.Participant, &livekit.ParticipantInfo{Sid: w.Participant.GetSid(), Identity: w.Participant.GetIdentity()}),
			Track:       w.Track != nil,
			Job:         w.Job != nil,
			EndReason:   w.RoomEndReason != livekit.RoomEndReason_ROOM_END_UNKNOWN,
		}, e.Type)
	}
	for _, name := range log.Names() {
		require.True(t, written[name], "no event of the type %s was written", name)
	}
}

// withWorkers gives a house agent workers, all of one name.
func withWorkers(c *rooms.Config) {
	c.Agents = &rooms.AgentsConfig{Workers: scribes{}, Records: c.Store.(*sqlite.Store)}
}

// scribes are workers for room jobs.
type scribes struct{}

func (scribes) Kinds(name, _ string) (kinds []rooms.AgentKind) {
	if name == "scribe" {
		kinds = append(kinds, rooms.AgentKind{AgentName: name})
	}
	return kinds
}
func (scribes) Wake(rooms.AgentKind) {}
func (scribes) Terminate(string)     {}

// part classifies how much of names is in whole.
func part[M proto.Message](whole, names M) log.Part {
	switch {
	case !whole.ProtoReflect().IsValid():
		return log.Absent
	case proto.Equal(whole, names):
		return log.Named
	}
	return log.Whole
}

// TestEventsOfTracksTellOfTheWholeRoom if they are to.
func TestEventsOfTracksTellOfTheWholeRoom(t *testing.T) {
	for _, full := range []bool{false, true} {
		h := newHouse(t, func(c *rooms.Config) { c.FullRoomInEvents = full })
		_, err := h.Create(t.Context(), &livekit.CreateRoomRequest{Name: "tea", Metadata: "m"})
		require.NoError(t, err)
		h.join("tea", "ann").publish(t, "mic", livekit.TrackSource_MICROPHONE)
		h.flush("tea")
		room := webhook(t, h.log(log.TrackPublished)[0]).Room
		require.Equal(t, "tea", room.Name)
		require.NotEmpty(t, room.Sid)
		require.Equal(t, full, room.Metadata == "m" && room.NumParticipants == 1)
	}
}
