package log_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
)

func namesOf(a log.Audience) (names []string) {
	for _, t := range log.Types() {
		if t.For == a {
			names = append(names, t.Name)
		}
	}
	return names
}

func TestEndpointsGetWhatTheTableSays(t *testing.T) {
	gets := func(e log.Endpoint) (names []string) {
		for _, t := range log.Types() {
			if e.Wants(t.Name) {
				names = append(names, t.Name)
			}
		}
		return names
	}
	everybody, askers := namesOf(log.Everybody), namesOf(log.Askers)
	require.Equal(t, everybody, gets(log.Endpoint{}))
	require.Equal(t, everybody[1:], gets(log.Endpoint{Exclude: everybody[:1]}))
	require.Equal(t, everybody, gets(log.Endpoint{Exclude: askers}))
	require.Equal(t, askers, gets(log.Endpoint{Include: askers, Exclude: everybody}))
	require.Subset(t, gets(log.Endpoint{Include: []string{"*"}}), log.Names())
	require.Equal(t, slices.Concat(everybody, askers), log.Names())
	require.False(t, (&log.Endpoint{}).Wants("unheard_of"))
}

func TestTheTableIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, typ := range log.Types() {
		require.NotEmpty(t, typ.Name)
		require.NotEmpty(t, typ.Doc, typ.Name)
		require.False(t, seen[typ.Name], "%s stands there twice", typ.Name)
		seen[typ.Name] = true
	}
}
