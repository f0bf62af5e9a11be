package sqlite

import (
	"testing"

	"parlor/rooms/log"

	"github.com/stretchr/testify/require"
)

func TestStarts(t *testing.T) {
	s := openNew(t)
	ctx := t.Context()
	for i := range int64(maxStarts + 3) {
		id, err := s.NoteStart(ctx, log.Start{AtMs: i, Version: "1.2.3", ReadyMs: 7})
		require.NoError(t, err)
		if i%2 == 0 {
			require.NoError(t, s.NoteStop(ctx, id, i+10, 5))
		}
	}
	newest, err := s.Starts(ctx, 0, 2)
	require.NoError(t, err)
	require.Equal(t, []log.Start{
		{ID: maxStarts + 3, AtMs: maxStarts + 2, Version: "1.2.3", ReadyMs: 7, StoppedMs: maxStarts + 12, StopMs: 5},
		{ID: maxStarts + 2, AtMs: maxStarts + 1, Version: "1.2.3", ReadyMs: 7},
	}, newest)
	oldest, err := s.Starts(ctx, 6, 10)
	require.NoError(t, err)
	require.Len(t, oldest, 2, "the oldest are forgotten")
}
