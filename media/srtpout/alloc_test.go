//go:build !race

package srtpout

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The race detector makes sync.Pool forget at random, hence not with it.
func TestWriteDoesNotAllocate(t *testing.T) {
	s := newSender(t, nowhere{}, randomKeys(t, profiles[0]))
	st := s.Stream(1)
	h, payload := header(1, 1), make([]byte, 1150)
	require.Less(t, testing.AllocsPerRun(200, func() {
		h.SequenceNumber++
		_ = st.Write(h, payload)
	}), 0.5)
}
