package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJoinsRefuseNonsense(t *testing.T) {
	for _, args := range [][]string{{"-listeners", "0"}, {"-present", "0"}, {"-speakers", "-1"}, {"-rounds", "0"}, {"-nonsense"}} {
		require.Error(t, run(t.Context(), append([]string{joinsCommand}, args...), nil, &bytes.Buffer{}), args)
	}
}

func TestMemoryOfAServer(t *testing.T) {
	kb, err := memoryIn(strings.NewReader("heap profile: 1: 2 [3: 4] @ heap/1048576\n# Stack = 2048 / 4096\n# HeapAlloc = 1024\n"))
	require.NoError(t, err)
	require.Equal(t, 3.0, kb)
	for _, text := range []string{"", "# HeapAlloc = 1024\n", "# HeapAlloc = many\n# Stack = 1 / 2\n"} {
		_, err := memoryIn(strings.NewReader(text))
		require.Error(t, err, text)
	}
}

func TestMiddleOfCosts(t *testing.T) {
	middle := middleCosts([]joinCosts{{join: 3, one: 1}, {join: 1, one: 2}, {join: 2, one: 3}})
	require.Equal(t, joinCosts{join: 2, one: 2}, middle)
}
