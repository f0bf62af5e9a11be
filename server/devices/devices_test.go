package devices_test

import (
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/stretchr/testify/require"

	"parlor/server/devices"
)

func TestWhatIsKnownOfClients(t *testing.T) {
	rules, err := devices.New(nil)
	require.NoError(t, err)
	for _, c := range []struct {
		client  *livekit.ClientInfo
		both    []string
		publish []string
	}{
		{client: &livekit.ClientInfo{}},
		{client: &livekit.ClientInfo{Browser: "Chrome", BrowserVersion: "140.0", Os: "macOS"}},
		{client: &livekit.ClientInfo{Browser: "Safari", BrowserVersion: "17.4"}, both: []string{"video/av1"}},
		{client: &livekit.ClientInfo{Browser: "Safari", BrowserVersion: "18.3"}, both: []string{"video/av1"}},
		{client: &livekit.ClientInfo{Browser: "Safari", BrowserVersion: "18.10"}, both: []string{"video/av1"}, publish: []string{"video/vp9"}},
		{client: &livekit.ClientInfo{Browser: "Safari"}, both: []string{"video/av1"}},
		{client: &livekit.ClientInfo{Browser: "Firefox", Os: "Linux"}, both: []string{"video/av1"}},
		{client: &livekit.ClientInfo{Browser: "Firefox Mobile", Os: "Android"}, both: []string{"video/av1"}, publish: []string{"video/h264"}},
		{client: &livekit.ClientInfo{DeviceModel: "Xiaomi 2201117TI", Os: "Android"}, publish: []string{"video/h264"}},
		{client: &livekit.ClientInfo{DeviceModel: "Xiaomi 2201117TI", Os: "other"}},
	} {
		r := rules.For(c.client)
		require.Equal(t, c.both, r.Codecs, "%v", c.client)
		require.Equal(t, c.publish, r.PublishCodecs, "%v", c.client)
		require.Equal(t, c.both == nil, r.MayPublish("video/AV1"))
	}
}

func TestRulesOfAnOperator(t *testing.T) {
	rules, err := devices.New([]devices.Rule{
		{SDKs: []string{"reactnative"}, Version: "< 2.1", NoResume: true, DisabledCodecs: []string{"video/h265"}},
		{OS: []string{"ios"}, OSVersion: ">= 17", ForceRelay: true},
	})
	require.NoError(t, err)
	old := rules.For(&livekit.ClientInfo{Sdk: livekit.ClientInfo_REACT_NATIVE, Version: "2.0.9"})
	require.Equal(t, livekit.ClientConfigSetting_DISABLED, old.Configuration().ResumeConnection)
	require.Equal(t, "video/h265", old.Configuration().DisabledCodecs.Codecs[0].Mime)
	later := rules.For(&livekit.ClientInfo{Sdk: livekit.ClientInfo_REACT_NATIVE, Version: "2.1.0", Os: "iOS", OsVersion: "17"})
	require.Equal(t, livekit.ClientConfigSetting_ENABLED, later.Configuration().ForceRelay)
	require.Equal(t, livekit.ClientConfigSetting_UNSET, later.Configuration().ResumeConnection)
	require.Nil(t, later.Configuration().DisabledCodecs)

	for _, bad := range []devices.Rule{
		{NoResume: true},
		{Browsers: []string{"x"}, BrowserVersion: "~ 3"},
		{Browsers: []string{"x"}, BrowserVersion: "=> 3"},
		{Browsers: []string{"x"}, BrowserVersion: "new"},
		{Browsers: []string{"x"}, DisabledCodecs: []string{"vp8"}},
	} {
		require.Error(t, bad.Check(), "%v", bad)
	}
}
