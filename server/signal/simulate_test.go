package signal

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Clients' preferences are kept for a while, and their number is bounded.
func TestPreferencesAreBounded(t *testing.T) {
	var p preferences
	now := time.Now()
	require.False(t, p.holds("r", "alice", now))
	p.prefer("r", "alice", now)
	require.True(t, p.holds("r", "alice", now.Add(preferredFor-1)))
	require.False(t, p.holds("r", "alice", now.Add(preferredFor)))
	require.False(t, p.holds("r", "bob", now))
	require.False(t, p.holds("other", "alice", now))
	require.True(t, p.forget("r", "alice"))
	require.False(t, p.forget("r", "alice"))
	require.False(t, p.holds("r", "alice", now))

	var all sync.WaitGroup
	for n := range mostPreferences + 10 {
		all.Go(func() { p.prefer("r", strconv.Itoa(n), now) })
	}
	all.Wait()
	require.Len(t, p.until, mostPreferences)
	p.prefer("r", "late", now)
	require.False(t, p.holds("r", "late", now), "there is room for no more")
	later := now.Add(preferredFor + 1)
	p.prefer("r", "late", later)
	require.True(t, p.holds("r", "late", later), "what is over makes room")
	require.Len(t, p.until, 1)
}
