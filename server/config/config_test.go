package config_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"parlor/server/config"
)

var update = flag.Bool("update", false, "write the golden files again")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run the test with -update if the change is meant")
}

// load reads body as LIVEKIT_CONFIG, with valid keys unless it brings its own.
func load(t *testing.T, body string, env ...string) (*config.Config, []string, error) {
	t.Helper()
	if !strings.Contains(body, "keys:") && !strings.HasPrefix(body, "[") {
		body += "\nkeys: {k: 0123456789abcdef0123456789abcdef}\n"
	}
	return config.Load(config.Sources{Environ: append(env, "LIVEKIT_CONFIG="+body)})
}

func TestLiveKitFileIsReadUnchanged(t *testing.T) {
	c, warnings, err := config.Load(config.Sources{File: filepath.Join("testdata", "livekit.yaml")})
	require.NoError(t, err)
	got, err := json.MarshalIndent(map[string]any{"config": c, "warnings": warnings}, "", "  ")
	require.NoError(t, err)
	golden(t, "livekit.golden", string(got)+"\n")
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	c, warnings, err := load(t, "# nothing\nrtc:\nredis:\nport: ~\n")
	require.NoError(t, err)
	require.Empty(t, warnings)
	want := config.Default()
	want.Keys = c.Keys
	require.Equal(t, want, c)
	require.Equal(t, []int{7882}, c.RTC.UDPPorts())
}

func TestReferenceIsUpToDate(t *testing.T) {
	golden(t, "reference.golden.md", config.Reference())
}

// TestEveryKeyIsDocumented holds the table of keys against the struct, both ways.
func TestEveryKeyIsDocumented(t *testing.T) {
	documented := map[string]config.Key{}
	for _, k := range config.Keys() {
		require.NotContains(t, documented, k.Path, "listed twice")
		require.NotEmpty(t, k.Doc, k.Path)
		documented[k.Path] = k
	}
	inStruct := map[string]bool{}
	var walk func(reflect.Type, string)
	walk = func(s reflect.Type, prefix string) {
		for i := range s.NumField() {
			f := s.Field(i)
			path := prefix + f.Tag.Get("yaml")
			inStruct[path] = true
			switch f.Type.Kind() {
			case reflect.Struct:
				if _, leaf := reflect.New(f.Type).Interface().(interface{ UnmarshalYAML(any) error }); !leaf &&
					f.Type != reflect.TypeFor[config.PortRange]() && f.Type != reflect.TypeFor[config.NodeIP]() {
					delete(inStruct, path)
					walk(f.Type, path+".")
				}
			case reflect.Slice:
				if f.Type.Elem().Kind() == reflect.Struct {
					walk(f.Type.Elem(), path+"[].")
				}
			}
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	for path := range inStruct {
		require.Contains(t, documented, path, "a field that the table of keys does not have")
	}
	for path, k := range documented {
		if k.Effect == config.Applied || k.Effect == config.Renamed {
			require.True(t, inStruct[path], "%s is in the table as applied, but no field takes it", path)
		} else {
			require.False(t, inStruct[path], "%s is in the table as ignored, but a field takes it", path)
		}
	}
	env := map[string]string{}
	for _, k := range config.Keys() {
		if e := k.Env(); e != "" {
			require.NotContains(t, env, e, "two keys of one variable: %s", k.Path)
			env[e] = k.Path
		}
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, tc := range []struct{ name, body, want string }{
		{"misspelt", "rtc:\n  udp_prot: 1", "LIVEKIT_CONFIG:2: rtc.udp_prot: unknown key; did you mean rtc.udp_port?"},
		{"wrong section", "udp_port: 1", "LIVEKIT_CONFIG:1: udp_port: unknown key; did you mean rtc.udp_port?"},
		{"misspelt section", "wehbook: {urls: []}", "wehbook: unknown key; did you mean webhook"},
		{"nothing near", "zebra_crossing: 1", "LIVEKIT_CONFIG:1: zebra_crossing: unknown key\n"},
		{"in a list", "rtc:\n  turn_servers:\n  - host: h\n    prot: 1", "LIVEKIT_CONFIG:4: rtc.turn_servers[0].prot: unknown key; did you mean rtc.turn_servers[].port?"},
		{"type", "port: high", "LIVEKIT_CONFIG:1: port: must be a whole number"},
		{"negative for unsigned", "room: {max_participants: -1}", "room.max_participants: must be a whole number"},
		{"section expected", "rtc: 7882", "rtc: must be a section"},
		{"bool", "room: {auto_create: perhaps}", "room.auto_create: must be true or false"},
		{"list", "webhook: {urls: x}", "webhook.urls: must be a list"},
		{"list of sections", "rtc: {turn_servers: x}", "rtc.turn_servers: must be a list"},
		{"twice", "port: 1\nport: 2", "LIVEKIT_CONFIG:2: port: is given twice"},
		{"merge key", "a: &a {}\nrtc:\n  <<: *a", "merge keys are not supported"},
		{"range", "rtc: {udp_port: 9-8}", "the end of the range must be greater"},
		{"wide range", "rtc: {udp_port: 1-65000}", "a range of more than 1024 ports"},
		{"port text", "rtc: {udp_port: x}", "rtc.udp_port: must be a port"},
		{"port too big", "port: 70000", "port: must be a port from 0 to 65535"},
		{"span without unit", "restart_grace: 60", "restart_grace: must be a time span with its unit"},
		{"history", "history: long", "history: must be a time span such as 720h or 30d, or forever"},
		{"timeout", "room: {empty_timeout: 5m}", "room.empty_timeout: must be whole seconds, or never"},
		{"node ip", "rtc: {node_ip: here}", "rtc.node_ip: must be an IP address"},
		{"two of one family", "rtc: {node_ip: '192.0.2.1,192.0.2.2'}", "rtc.node_ip: must be an IP address"},
		{"cidr", "rtc: {ips: {includes: [10.0.0.1]}}", "rtc.ips: \"10.0.0.1\" is not a network"},
		{"bind", "bind_addresses: [example.com]", "bind_addresses: \"example.com\" is not an IP address"},
		{"same port", "prometheus: {port: 7880}", "prometheus.port: must differ from port"},
		{"TURN alone", "turn: {enabled: true, tls_port: 5349, domain: a.example}", "turn.tls_port: needs a certificate"},
		{"TURN without a name", "turn: {enabled: true, tls_port: 5349, external_tls: true}", "turn.domain: is missing"},
		{"TURN by force", "turn: {force_relay: true}", "turn.force_relay: needs turn.enabled"},
		{"TURN and ICE", "turn: {enabled: true, tls_port: 7881, external_tls: true, domain: a.example}", "turn.tls_port: must differ from rtc.tcp_port"},
		{"relay", "turn: {relay: {allow: [10.0.0.1]}}", `turn.relay.allow: "10.0.0.1" is not a network`},
		{"relay ports", "turn: {relay_range_start: 2, relay_range_end: 1}", "turn.relay_range_end: must not be less"},
		{"PROXY without a port", "turn: {enabled: true, proxy_protocol: true}", "turn.proxy_protocol: is for turn.tls_port"},
		{"PROXY of nobody", "turn: {enabled: true, tls_port: 5349, external_tls: true, domain: a.example, proxy_protocol: true, proxy_protocol_trusted_cidrs: []}", "turn.proxy_protocol_trusted_cidrs: is empty"},
		{"proxies", "turn: {proxy_protocol_trusted_cidrs: [10.0.0.1]}", `turn.proxy_protocol_trusted_cidrs: "10.0.0.1" is not a network`},
		{"quota", "turn: {max_allocations: -1}", "turn.max_allocations: must not be negative"},
		{"domain", "domain: 'a b'", `domain: "a b" is not a name`},
		{"domain without a dot", "domain: localhost", `domain: "localhost" is not a name of the public DNS`},
		{"an address as domain", "domain: 192.0.2.1", `domain: "192.0.2.1" is not a name of the public DNS`},
		{"two certificates", "domain: a.example\ntls: {self_signed: true}", "tls.self_signed: is in place of"},
		{"plain HTTP", "tls: {http_port: 80}", "tls.http_port: needs domain"},
		{"authority", "domain: a.example\ntls: {acme: {directory: nowhere}}", `tls.acme.directory: "nowhere" is not a URL`},
		{"half of TLS", "tls: {cert_file: x}", "tls: needs both"},
		{"half of metrics", "prometheus: {username: x}", "prometheus: needs both"},
		{"level", "logging: {level: loud}", "logging.level: must be debug, info, warn or error"},
		{"memory", "database: ':memory:'", "database: must be the path of a file"},
		{"webhook without key", "webhook: {urls: ['http://x']}", "webhook.api_key: is missing"},
		{"webhook with foreign key", "webhook: {urls: ['http://x'], api_key: no}", "webhook.api_key: \"no\" is not one of keys"},
		{"webhook bound", "webhook: {max_pending: -1}", "webhook.max_pending: must not be negative; 0 is no limit"},
		{"webhook URL", "webhook: {urls: ['ftp://x'], api_key: k}", "is not an http or https URL"},
		{"webhook named twice", "webhook: {urls: ['http://x', 'http://x'], api_key: k}", "webhook.urls[1]: is the same URL as webhook.urls[0]"},
		{"webhook in both lists", "webhook: {urls: ['http://x'], endpoints: [{url: 'http://x'}], api_key: k}", "webhook.endpoints[0].url: is the same URL as webhook.urls[0]"},
		{"endpoint without URL", "webhook: {endpoints: [{name: x}], api_key: k}", "webhook.endpoints[0].url: is not an http or https URL"},
		{"endpoint without key", "webhook: {endpoints: [{url: 'http://x'}, {url: 'http://y', api_key: k}]}", "webhook.api_key: is missing"},
		{"endpoint with foreign key", "webhook: {endpoints: [{url: 'http://x', api_key: no}]}", "webhook.endpoints[0].api_key: \"no\" is not one of keys"},
		{"endpoint's ordering", "webhook: {endpoints: [{url: 'http://x', api_key: k, ordering: loose}]}", "webhook.endpoints[0].ordering: must be relaxed or strict"},
		{"endpoint's secret", "webhook: {endpoints: [{url: 'http://x', api_key: k, secrets: [whsec_c2hvcnQ=]}]}", "webhook.endpoints[0].secrets[0]: must be whsec_ and the base64 of 24 to 64 bytes"},
		{"endpoint's secrets", "webhook: {endpoints: [{url: 'http://x', api_key: k, secrets: x}]}", "webhook.endpoints[0].secrets: must be a list"},
		{"endpoint's time", "webhook: {endpoints: [{url: 'http://x', api_key: k, retry_for: forever}]}", "webhook.endpoints[0].retry_for: must be a time span"},
		{"endpoint's requests", "webhook: {endpoints: [{url: 'http://x', api_key: k, concurrency: -1}]}", "webhook.endpoints[0].concurrency: must not be negative"},
		{"endpoint misspelt", "webhook: {endpoints: [{ulr: 'http://x'}]}", "webhook.endpoints[0].ulr: unknown key; did you mean webhook.endpoints[].url?"},
		{"barrier without replica", "webhook: {after_replication: true}", "webhook.after_replication: needs a replica to wait for; set replica"},
		{"limit", "limit: {max_metadata_size: -1}", "limit.max_metadata_size: must not be negative"},
		{"codec", "room: {enabled_codecs: [{mime: vp8}]}", "room.enabled_codecs[0].mime: \"vp8\" is none of video/VP8, "},
		{"codec of nobody", "room: {enabled_codecs: [{mime: video/vp8}, {mime: audio/vpx}]}", "room.enabled_codecs[1].mime: \"audio/vpx\" is none of"},
		{"repeats of nothing", "room: {enabled_codecs: [{mime: video/vp8}, {mime: audio/red}]}", "room.enabled_codecs: audio/red repeats audio/opus"},
		{"STUN scheme twice", "rtc: {stun_servers: ['stun:stun:a:1']}", "rtc.stun_servers[0]: \"stun:stun:a:1\" is not a STUN server"},
		{"STUN over TLS", "rtc: {stun_servers: ['stuns:a:1']}", "rtc.stun_servers[0]: \"stuns:a:1\" is not a STUN server"},
		{"TURN for STUN", "rtc: {stun_servers: ['turn:a:1']}", "TURN servers belong under rtc.turn_servers"},
		{"STUN with a query", "rtc: {stun_servers: ['a:1?transport=udp']}", "rtc.stun_servers[0]"},
		{"STUN with a space", "rtc: {stun_servers: ['a:1', ' b:1']}", "rtc.stun_servers[1]: \" b:1\" is not a STUN server"},
		{"STUN port", "rtc: {stun_servers: ['a:65536']}", "a port is from 1 to 65535"},
		{"STUN port 0", "rtc: {stun_servers: ['a:0']}", "a port is from 1 to 65535"},
		{"STUN port missing", "rtc: {stun_servers: ['a:']}", "a colon and a port, or nothing"},
		{"STUN IPv6", "rtc: {stun_servers: ['2001:db8::1']}", "an IPv6 address is written in brackets"},
		{"STUN IPv6 with a port", "rtc: {stun_servers: ['2001:db8::1:2:3:4:5:3478']}", "rtc.stun_servers[0]"},
		{"STUN brackets", "rtc: {stun_servers: ['[a]:1']}", "not an IPv6 address"},
		{"STUN brackets open", "rtc: {stun_servers: ['[::1']}", "not an IPv6 address"},
		{"STUN empty", "rtc: {stun_servers: ['']}", "rtc.stun_servers[0]: \"\" is not a STUN server such as stun.example.org:3478: it is empty"},
		{"STUN scheme alone", "rtc: {stun_servers: ['stun:']}", "it is empty"},
		{"STUN IPv4", "rtc: {stun_servers: ['1.2.3.400:1']}", "looks like an IPv4 address"},
		{"STUN beyond ASCII", "rtc: {stun_servers: ['stün.example:1']}", "xn-- form"},
		{"STUN part", "rtc: {stun_servers: ['a..b:1']}", "the parts between dots"},
		{"STUN URL", "rtc: {stun_servers: ['https://a']}", "rtc.stun_servers[0]"},
		{"TURN port", "rtc: {turn_servers: [{host: 'turn:a:1', port: 2, protocol: udp}]}", "rtc.turn_servers[0].host: \"turn:a:1\" says port 1, and port says 2"},
		{"TURN protocol", "rtc: {turn_servers: [{host: 'turns:a', port: 2, protocol: udp}]}", "says tls, and protocol says udp"},
		{"TURN scheme", "rtc: {turn_servers: [{host: 'stun:a', port: 2, protocol: udp}]}", "its scheme is stun"},
		{"TURN query", "rtc: {turn_servers: [{host: 'turn:a?x=y', port: 2, protocol: udp}]}", "is no transport"},
		{"TURN with a space", "rtc: {turn_servers: [{host: 'a b', port: 2, protocol: udp}]}", "rtc.turn_servers[0].host: \"a b\" is not a name"},
		{"TURN IPv6", "rtc: {turn_servers: [{host: '2001:db8::1', port: 2, protocol: udp}]}", "written in brackets"},
		{"TURN user", "rtc: {turn_servers: [{host: a, port: 2, protocol: udp, credential: c, username: " + strings.Repeat("x", 510) + "}]}", "rtc.turn_servers[0].username: is longer than"},
		{"TURN password", "rtc: {turn_servers: [{host: a, port: 2, protocol: udp, username: c, credential: " + strings.Repeat("x", 510) + "}]}", "rtc.turn_servers[0].credential: is longer than"},
		{"node ip for nobody", "rtc: {node_ip: 0.0.0.0}", "rtc.node_ip: nobody can send to 0.0.0.0"},
		{"node ip for many", "rtc: {node_ip: 'ff02::1'}", "rtc.node_ip: nobody can send to ff02::1"},
		{"delay", "room: {playout_delay: {enabled: true, min: 40951}}", "room.playout_delay.min: must not be more than the 40950 ms"},
		{"delays", "room: {playout_delay: {enabled: true, min: 2, max: 1}}", "room.playout_delay.min: must not be greater than max"},
		{"delays of a preset", "room: {room_configurations: {a: {min_playout_delay: 2, max_playout_delay: 1}}}", "room.room_configurations.a.playout_delay.min: must not be greater than max"},
		{"metadata of a preset", "limit: {max_metadata_size: 1}\nroom: {room_configurations: {a: {metadata: ab}}}", "room.room_configurations.a.metadata: is longer than limit.max_metadata_size"},
		{"tags of a preset", "limit: {max_attributes_size: 1}\nroom: {room_configurations: {a: {tags: {b: c}}}}", "room.room_configurations.a.tags: are longer than"},
		{"origin with a path", "cors_origins: ['https://a', 'https://b/']", "cors_origins[1]: \"https://b/\" is not an origin"},
		{"origin's port", "cors_origins: ['https://a:99999']", "cors_origins[0]: \"https://a:99999\" is not an origin"},
		{"metrics user", "prometheus: {username: 'a:b', password: c}", "prometheus.username: must not have a colon"},
		{"webhook port", "webhook: {urls: ['http://x:99999'], api_key: k}", "webhook.urls[0]: is not an http or https URL"},
		{"hook port", "hooks: {authorize: 'http://x:0'}", "hooks.authorize: is not an http or https URL"},
		{"preset", "room: {room_configurations: {a: {colour: red}}}", "colour is not a setting of a room preset"},
		{"turn", "rtc: {turn_servers: [{port: 1, protocol: quic}]}", "rtc.turn_servers[0].protocol: must be udp, tcp or tls"},
		{"no keys", "keys: {}", "keys: no API keys; set keys, key_file or LIVEKIT_KEYS, or start with --dev"},
		{"empty secret", "keys: {a: ''}", "must not be empty"},
		{"hook's URL", "hooks: {authorize: 'ftp://x'}", "hooks.authorize: is not an http or https URL"},
		{"hook's key", "hooks: {authorize: 'http://x'}\nkeys: {a: b, c: d}", "hooks.authorize: needs a key to sign with"},
		{"hook's failure", "hooks: {on_failure: maybe}", "hooks.on_failure: must be allow or deny"},
		{"hook's timeout", "hooks: {timeout: 0s}", "hooks.timeout: must be more than nothing"},
		{"ordering", "webhook: {ordering: loose}", "webhook.ordering: must be relaxed or strict"},
		{"not YAML", "a: [", "is not YAML"},
		{"two documents", "port: 1\n---\nport: 2", "more than one YAML document"},
		{"a list", "[keys: port]", "LIVEKIT_CONFIG:1: must be a section"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := load(t, tc.body)
			require.Error(t, err)
			require.Contains(t, err.Error()+"\n", tc.want)
		})
	}
}

func TestWhatIsMeantForClientsIsTaken(t *testing.T) {
	c, _, err := load(t, `cors_origins: ['*', 'https://App.example:443', 'http://a:8080']
room: {enabled_codecs: [{mime: video/vp8}, {mime: Audio/OPUS}, {mime: audio/red}, {mime: video/rtx}]}
rtc:
  stun_servers: ['stun:stun.example.org:3478', 'STUN:a_b.example', '[2001:db8::1]', '192.0.2.1:19302', 'stun://a', 'stun:1234']
  turn_servers:
  - {host: 'turn:turn.example.org:3479?transport=tcp', username: u, credential: c}
  - {host: 'turns:turn.example.org', username: u, credential: c}
  - {host: '[2001:db8::1]', port: 3478, protocol: udp, username: u, credential: c}
  - {host: 'turn.example.org:443', protocol: tls, username: u, credential: c}`)
	require.NoError(t, err)
	require.Equal(t, []string{"*", "https://app.example", "http://a:8080"}, c.CORSOrigins, "as browsers write them")
	require.Equal(t, []string{
		"stun.example.org:3478", "a_b.example:3478", "[2001:db8::1]:3478", "192.0.2.1:19302", "a:3478", "stun:1234",
	}, c.RTC.STUNServers)
	var got []string
	for _, s := range c.RTC.TURNServers {
		got = append(got, fmt.Sprintf("%s %d %s", s.Host, s.Port, s.Protocol))
	}
	require.Equal(t, []string{
		"turn.example.org 3479 tcp", "turn.example.org 5349 tls", "2001:db8::1 3478 udp", "turn.example.org 443 tls",
	}, got)
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	_, _, err := load(t, "prot: 1\nrtc:\n  tcp_port: x\n")
	require.ErrorContains(t, err, ":1: prot: unknown key; did you mean port?")
	require.ErrorContains(t, err, ":3: rtc.tcp_port: must be a whole number")
}

func TestSecretsAreNotRepeated(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, body := range []string{
		"keys: " + secret,
		"keys: [" + secret + "]",
		"keys: {a: [" + secret + "]}",
		"keys: {a: " + secret + "}\nport: x",
		"webhook: {api_key: k, endpoints: [{url: 'http://x', secrets: [" + secret + "]}]}",
		"rtc: {stun_servers: ['turn:u:" + secret + "@x']}",
		"rtc: {turn_servers: [{host: 'turn:u:" + secret + "@x', port: 1, protocol: udp}]}",
		"webhook: {api_key: k, urls: ['ftp://u:" + secret + "@x']}",
		"webhook: {api_key: k, urls: ['http://u:" + secret + "@x', 'http://u:" + secret + "@x']}",
	} {
		_, warnings, err := load(t, body)
		require.Error(t, err)
		require.NotContains(t, err.Error(), secret)
		require.NotContains(t, strings.Join(warnings, " "), secret)
	}
}

func TestEndpointsNeedNoCommonKey(t *testing.T) {
	c, warnings, err := load(t, `webhook:
  filter_params: {include_events: [room_strated]}
  endpoints:
  - {url: 'http://x', name: x, api_key: k, retry_for: 1d, filter_params: {exclude_events: ['*', egress_started]}}`)
	require.NoError(t, err)
	require.Len(t, warnings, 2)
	require.Contains(t, warnings[0], `webhook.filter_params: Parlor sends no event of the type "room_strated"; it sends room_started, `)
	require.Contains(t, warnings[1], `webhook.endpoints[0].filter_params: Parlor sends no event of the type "egress_started"`)
	require.Equal(t, []config.WebhookEndpoint{{
		URL: "http://x", Name: "x", APIKey: "k", RetryFor: config.Retention(24 * time.Hour),
		FilterParams: config.FilterParams{ExcludeEvents: []string{"*", "egress_started"}},
	}}, c.Webhook.Endpoints)
}

func TestLaterSourcesWin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "parlor.yaml")
	require.NoError(t, os.WriteFile(file, []byte(
		"port: 1000\nregion: file\nrtc: {tcp_port: 1001, node_ip: 192.0.2.1}\nlogging: {level: error}\nkeys: {file: 0123456789abcdef0123456789abcdef}\n"), 0o600))
	c, _, err := config.Load(config.Sources{
		File: file,
		Environ: []string{
			"LIVEKIT_CONFIG=region: body\nrtc: {tcp_port: 2001}",
			"LIVEKIT_KEYS=env: fedcba9876543210fedcba9876543210",
			"PARLOR_RTC_TCP_PORT=3001",
			"PARLOR_WEBHOOK_URLS=http://a/x, http://b/y",
			"PARLOR_WEBHOOK_API_KEY=env",
			"PARLOR_LOGGING_LEVEL=warn",
			"UDP_PORT=4000-4002",
		},
		Flags: []config.Setting{{"port", "5000", "--port"}, {"logging.level", "debug", "--log-level"}},
	})
	require.NoError(t, err)
	require.Equal(t, 5000, c.Port, "flag over file")
	require.Equal(t, "body", c.Region, "LIVEKIT_CONFIG over file")
	require.Equal(t, 3001, c.RTC.TCPPort, "variable over LIVEKIT_CONFIG")
	require.Equal(t, "192.0.2.1", c.RTC.NodeIP.V4.String(), "the file's own keys stay")
	require.Equal(t, "debug", c.Logging.Level, "flag over variable")
	require.Equal(t, map[string]string{"env": "fedcba9876543210fedcba9876543210"}, c.Keys, "LIVEKIT_KEYS replaces the file's keys")
	require.Equal(t, []string{"http://a/x", "http://b/y"}, c.Webhook.URLs)
	require.Equal(t, []int{4000, 4001, 4002}, c.RTC.UDPPorts())

	c, _, err = config.Load(config.Sources{Environ: []string{"PARLOR_CONFIG=" + file}})
	require.NoError(t, err)
	require.Equal(t, "file", c.Region)
}

func TestMistakesInTheEnvironment(t *testing.T) {
	_, warnings, err := load(t, "", "PARLOR_PORT=tcp://10.0.0.1:80", "PARLOR_PORT_80_TCP=x", "PARLOR_DATABASE=/x.db")
	require.NoError(t, err)
	require.Equal(t, []string{
		"environment variable PARLOR_PORT is a Kubernetes service link; ignored",
		"environment variable PARLOR_PORT_80_TCP is not one that Parlor reads",
	}, warnings)

	_, _, err = load(t, "", "PARLOR_PORT=x")
	require.EqualError(t, err, "PARLOR_PORT: port: must be a whole number (int)")
	_, _, err = load(t, "", "PARLOR_REGION=\xff")
	require.EqualError(t, err, "PARLOR_REGION: region: is not UTF-8")
	_, _, err = load(t, "", "PARLOR_HOOKS_AUTHORIZE=x")
	require.ErrorContains(t, err, "hooks.authorize: is not an http or https URL")
	_, _, err = config.Load(config.Sources{Flags: []config.Setting{{"rtc.nope", "1", "--nope"}}})
	require.EqualError(t, err, "--nope: rtc.nope: unknown key")
}

func TestKeysInTheEnvironment(t *testing.T) {
	long := "0123456789abcdef0123456789abcdef"
	for _, tc := range []struct {
		value string
		want  map[string]string
	}{
		{"a: " + long, map[string]string{"a": long}},
		{"a:" + long, map[string]string{"a": long}},
		{"a: " + long + "\nb: " + long + "\n", map[string]string{"a": long, "b": long}},
		{"a:" + long + ",b:" + long, map[string]string{"a": long, "b": long}},
		{"{a: '" + long + "'}", map[string]string{"a": long}},
	} {
		c, _, err := config.Load(config.Sources{Environ: []string{"LIVEKIT_KEYS=" + tc.value}})
		require.NoError(t, err, tc.value)
		require.Equal(t, tc.want, c.Keys, tc.value)
	}
	_, _, err := config.Load(config.Sources{Environ: []string{"LIVEKIT_KEYS=justakey"}})
	require.EqualError(t, err, "LIVEKIT_KEYS: keys: must be a mapping, one `name: value` a line")
}

func TestKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(file, []byte("b: fedcba9876543210fedcba9876543210\n"), 0o640))
	c, _, err := load(t, "key_file: "+file)
	require.NoError(t, err)
	require.Len(t, c.Keys, 2)

	require.NoError(t, os.Chmod(file, 0o644))
	_, _, err = load(t, "key_file: "+file)
	require.ErrorContains(t, err, "others may read it")
	_, _, err = load(t, "key_file: "+file+".not")
	require.ErrorContains(t, err, "cannot be read")
}

func TestTURNSecretsComeFromFiles(t *testing.T) {
	dir := t.TempDir()
	pair := filepath.Join(dir, "pair")
	require.NoError(t, os.WriteFile(pair, []byte("username: u\ncredential: c\n"), 0o600))
	c, _, err := load(t, `rtc: {turn_servers: [
		{host: a, port: 1, protocol: udp, username: x, credential: y},
		{host: b, port: 2, protocol: tls, credentials_file: `+pair+`}]}`)
	require.NoError(t, err)
	require.Equal(t, "u", c.RTC.TURNServers[1].Username)
	require.Equal(t, "c", c.RTC.TURNServers[1].Credential)

	require.NoError(t, os.WriteFile(pair, []byte("username: u\n"), 0o600))
	_, _, err = load(t, "rtc: {turn_servers: [{host: a, port: 1, protocol: udp, credentials_file: "+pair+"}]}")
	require.ErrorContains(t, err, "rtc.turn_servers[0].credentials_file: must have username and credential")

	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("of the two\n"), 0o600))
	c, warnings, err := load(t, `rtc: {turn_servers: [
		{host: a, port: 1, protocol: udp, secret: s, ttl: 600},
		{host: b, port: 2, protocol: tls, secret_file: `+secret+`, ttl: 1000000},
		{host: c, port: 3, protocol: udp, secret: s, ttl: -1}]}`)
	require.NoError(t, err)
	require.Empty(t, warnings, "clients are told of all three")
	require.Equal(t, 10*time.Minute, c.RTC.TURNServers[0].Lifetime())
	require.Equal(t, "of the two", c.RTC.TURNServers[1].Secret)
	require.Equal(t, 24*time.Hour, c.RTC.TURNServers[1].Lifetime())
	require.Equal(t, 5*time.Minute, c.RTC.TURNServers[2].Lifetime())
	require.NoError(t, os.WriteFile(secret, []byte("\n"), 0o600))
	_, _, err = load(t, "rtc: {turn_servers: [{host: a, port: 1, protocol: udp, secret_file: "+secret+"}]}")
	require.ErrorContains(t, err, "rtc.turn_servers[0].secret_file: is empty")
}

func TestDevelopment(t *testing.T) {
	dev := []config.Setting{{"development", "true", "--dev"}}
	c, warnings, err := config.Load(config.Sources{Flags: dev})
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, 7880, c.Port)
	require.Equal(t, map[string]string{"devkey": "secret"}, c.Keys)
	require.Equal(t, []string{"127.0.0.1", "::1"}, c.BindAddresses)
	require.True(t, c.RTC.EnableLoopbackCandidate)
	require.Equal(t, []int{7882}, c.RTC.UDPPorts())
	require.Equal(t, 7881, c.RTC.TCPPort)

	c, warnings, err = config.Load(config.Sources{Flags: append(dev,
		config.Setting{"port", "0", "--port"}, config.Setting{"bind_addresses", "0.0.0.0,127.0.0.1", "--bind"})})
	require.NoError(t, err)
	require.Len(t, warnings, 1, "others can come in")
	require.Contains(t, warnings[0], "others can reach 0.0.0.0")
	require.Contains(t, warnings[0], "everybody knows the secret of devkey")
	require.Equal(t, []string{"0.0.0.0", "127.0.0.1"}, c.BindAddresses, "--bind is for more than loopback")
	require.Equal(t, []int{0}, c.RTC.UDPPorts(), "with --port 0 nothing takes a fixed port")
	require.Zero(t, c.RTC.TCPPort)
}

// TestMediaIsBoundWhereEverythingIs, unless media has addresses of its own. Where no client
// can reach it, a warning names the key that mends it.
func TestMediaIsBoundWhereEverythingIs(t *testing.T) {
	const keys = "keys: {key: 0123456789abcdef0123456789abcdef}\n"
	for name, c := range map[string]struct {
		text     string
		media    []string
		loopback bool   // is advertised
		warning  string // "" = none
	}{
		"nothing":      {"", nil, false, ""},
		"LiveKit's":    {"bind_addresses: ['']", []string{""}, false, ""},
		"one":          {"bind_addresses: [192.0.2.1]", []string{"192.0.2.1"}, false, ""},
		"media apart":  {"bind_addresses: [127.0.0.1]\nrtc: {bind_addresses: ['::']}", []string{"::"}, false, ""},
		"media on all": {"bind_addresses: [127.0.0.1]\nrtc: {bind_addresses: []}", []string{}, false, ""},
		"loopback":     {"bind_addresses: [127.0.0.1, '::1']", []string{"127.0.0.1", "::1"}, true, "no call from another machine can work"},
		"loopback and not": {"bind_addresses: [127.0.0.1]\nrtc: {enable_loopback_candidate: false}", []string{"127.0.0.1"}, false,
			"no call can work"},
		"loopback is meant": {"bind_addresses: [127.0.0.1]\nrtc: {enable_loopback_candidate: true}", []string{"127.0.0.1"}, true, ""},
		"loopback is named": {"bind_addresses: [127.0.0.1]\nrtc: {bind_addresses: [127.0.0.1], node_ip: 192.0.2.1}", []string{"127.0.0.1"}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c2, warnings, err := load(t, keys+c.text)
			require.NoError(t, err)
			require.Equal(t, c.media, c2.RTC.BindAddresses)
			require.Equal(t, c.loopback, c2.RTC.EnableLoopbackCandidate)
			if c.warning == "" {
				require.Empty(t, warnings)
				return
			}
			require.Len(t, warnings, 1)
			require.Contains(t, warnings[0], c.warning)
			require.Contains(t, warnings[0], "rtc.bind_addresses")
		})
	}
	for _, key := range []string{"node_ip: 192.0.2.1", "use_external_ip: true"} {
		_, _, err := load(t, keys+"bind_addresses: [127.0.0.1]\nrtc: {"+key+"}")
		require.ErrorContains(t, err, "rtc."+key[:7])
		require.ErrorContains(t, err, "name the addresses of media in rtc.bind_addresses")
	}
	_, _, err := load(t, keys+"rtc: {bind_addresses: [example.com]}")
	require.ErrorContains(t, err, `rtc.bind_addresses: "example.com" is not an IP address`)
}

func TestWeakSecretsAreRefusedOrWarnedOf(t *testing.T) {
	_, _, err := load(t, "keys: {short: abcdefghijklmno, devkey: secret}")
	require.ErrorContains(t, err, "keys: devkey has the secret that every developer knows; choose another, or start with --dev")
	require.ErrorContains(t, err, "keys: the secret of short is shorter than 16 characters")
	_, warnings, err := load(t, "keys: {short: abcdefghijklmnop, 'a:b': 0123456789abcdef0123456789abcdef}")
	require.NoError(t, err)
	require.Equal(t, []string{
		"keys: a:b has a colon, where HTTP Basic ends a user name: it works with tokens alone",
		"keys: the secret of short is shorter than 32 characters and can be guessed from a token",
	}, warnings)
	_, warnings, err = load(t, "development: true\nkeys: {short: abc}")
	require.NoError(t, err)
	require.Empty(t, warnings)
}

// TestADomainIsOneDoor: with a domain everything is on port 443, TCP and UDP, unless other
// keys say otherwise.
func TestADomainIsOneDoor(t *testing.T) {
	c, warnings, err := load(t, "domain: Calls.Example.com.")
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, "calls.example.com", c.Domain)
	require.True(t, c.OneDoor())
	require.True(t, c.SpeaksTLS())
	require.Equal(t, []int{443, 443, 443, 443, 443, 80},
		[]int{c.Port, c.RTC.TCPPort, c.RTC.UDPPorts()[0], c.TURN.UDPPort, c.TURN.TLSPort, c.TLS.HTTPPort})
	require.True(t, c.TURN.Enabled)
	require.Equal(t, "calls.example.com", c.TURN.Domain)
	c, _, err = load(t, "domain: calls.example.com\nport: 7880\nrtc: {tcp_port: 7881, udp_port: 7882}\nturn: {enabled: false}\ntls: {http_port: 0}")
	require.NoError(t, err)
	require.False(t, c.OneDoor())
	require.Equal(t, []int{7880, 7881, 7882, 0}, []int{c.Port, c.RTC.TCPPort, c.RTC.UDPPorts()[0], c.TLS.HTTPPort})
	require.False(t, c.TURN.Enabled)
}

func TestValues(t *testing.T) {
	c, _, err := load(t, "room: {empty_timeout: never, departure_timeout: 0}\nhistory: forever\nrestart_grace: 90s\nrtc: {node_ip: '2001:db8::1'}")
	require.NoError(t, err)
	require.Equal(t, config.Never, c.Room.EmptyTimeout)
	require.Zero(t, c.Room.DepartureTimeout)
	require.Equal(t, config.Forever, c.History)
	require.Equal(t, config.Duration(90*time.Second), c.RestartGrace)
	require.Equal(t, "2001:db8::1", c.RTC.NodeIP.V6.String())
	c, _, err = load(t, "history: 7d\nrtc: {port_range_start: 50000, port_range_end: 60000}")
	require.NoError(t, err)
	require.Equal(t, config.Retention(7*24*time.Hour), c.History)
	require.Equal(t, []int{50000}, c.RTC.UDPPorts())
}

func FuzzLoad(f *testing.F) {
	sample, err := os.ReadFile(filepath.Join("testdata", "livekit.yaml"))
	require.NoError(f, err)
	f.Add(string(sample))
	for _, s := range []string{
		"", "port: 1", "a: &a [*a]", "rtc: &r {interfaces: *r}", "keys: &k {a: *k}", "rtc: {turn_servers: [[]]}",
		"room: {room_configurations: {a: {tags: {b: [c]}}}}", "rtc: {node_ip: ',,,'}", "rtc: {udp_port: -}",
		"a[0]: 1", "a[: 1", "'[]': 1", "history: -1d", "x: !!binary x", "port: !!float 1e99",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if strings.Contains(body, "_file") || strings.Contains(body, "\x00") {
			return // it would read files
		}
		c, _, err := config.Load(config.Sources{Environ: []string{"LIVEKIT_CONFIG=" + body}})
		if (c == nil) == (err == nil) {
			t.Fatal("neither a configuration nor an error")
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without a text")
		}
	})
}

// A server that is told its domain alone makes an API key, once, and keeps it from others.
func TestADomainAloneHasAKeyMade(t *testing.T) {
	dir := t.TempDir()
	sources := config.Sources{MakeKeys: true, Flags: []config.Setting{
		{Path: "domain", Value: "calls.example.com"}, {Path: "database", Value: filepath.Join(dir, "parlor.db")},
	}}
	asks := sources
	asks.MakeKeys = false
	file := filepath.Join(dir, "keys.yaml")
	_, _, err := config.Load(asks)
	require.ErrorContains(t, err, "the server has made none in "+file)
	require.NoFileExists(t, file)

	first, warnings, err := config.Load(sources)
	require.NoError(t, err)
	require.Contains(t, strings.Join(warnings, "\n"), file)
	require.Len(t, first.Keys, 1)
	for _, secret := range first.Keys {
		require.Len(t, secret, 43)
	}
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for _, s := range []config.Sources{sources, asks} {
		again, warnings, err := config.Load(s)
		require.NoError(t, err)
		require.Empty(t, warnings)
		require.Equal(t, first.Keys, again.Keys)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "and nothing else is left")

	require.NoError(t, os.Chmod(file, 0o644))
	_, _, err = config.Load(sources)
	require.ErrorContains(t, err, "others may read it")
}
