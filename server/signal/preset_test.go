package signal

import (
	"testing"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/server/config"
)

func TestPresetFillsWhatTheTokenLeavesOpen(t *testing.T) {
	never := config.Never
	h := &Handler{cfg: Config{Presets: map[string]config.Preset{"board": {EmptyTimeout: &never, MaxParticipants: 8, Metadata: "preset"}}}}
	req, err := h.createRequest(&auth.ClaimGrants{
		RoomPreset: "board",
		RoomConfig: (*auth.RoomConfiguration)(&livekit.RoomConfiguration{MaxParticipants: 3}),
	})
	require.NoError(t, err)
	require.EqualValues(t, config.Never, req.EmptyTimeout)
	require.EqualValues(t, 3, req.MaxParticipants, "the token's own word goes first")
	require.Equal(t, "preset", req.Metadata)

	req, err = h.createRequest(&auth.ClaimGrants{RoomPreset: "board"})
	require.NoError(t, err)
	require.EqualValues(t, 8, req.MaxParticipants)
	req, err = h.createRequest(&auth.ClaimGrants{})
	require.NoError(t, err)
	require.Nil(t, req)

	_, err = h.createRequest(&auth.ClaimGrants{RoomPreset: "bored"})
	refused, ok := asRefusal(err)
	require.True(t, ok)
	require.Equal(t, 400, refused.status)
	require.Equal(t, `unknown room preset "bored"`, refused.text)
}
