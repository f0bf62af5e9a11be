package config_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPublicSTUNServersAreForOurselvesAlone(t *testing.T) {
	c, _, err := load(t, "")
	require.NoError(t, err)
	require.Empty(t, c.RTC.DiscoverySTUN(), "nobody is asked who was not meant to be")
	c, warnings, err := load(t, "rtc: {use_external_ip: true}")
	require.NoError(t, err)
	require.NotEmpty(t, c.RTC.DiscoverySTUN())
	require.Empty(t, c.RTC.STUNServers, "these are what clients are told")
	require.Contains(t, warnings[len(warnings)-1], c.RTC.DiscoverySTUN()[0])
	c, _, err = load(t, "rtc: {use_external_ip: true, stun_servers: ['stun.example.org:3478']}")
	require.NoError(t, err)
	require.Equal(t, []string{"stun.example.org:3478"}, c.RTC.DiscoverySTUN())
}
