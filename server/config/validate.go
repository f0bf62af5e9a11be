package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// minSecret is the length below which a secret causes a warning: HMAC-SHA256 wants a key
// as long as its output (RFC 7518, section 3.2).
const minSecret = 32

// leastSecret is the length below which a secret is refused: by a token anybody can check
// guesses, and short secrets are found by trying.
const leastSecret = 16

// validate checks what a value's type does not tell.
func (l *loader) validate() {
	l.from = ""
	c := l.config
	l.validateKeys(c)
	l.validateEvents(&c.Events)
	l.validateListeners(c)
	l.validateRTC(&c.RTC)
	l.validateOwnTURN(c)
	l.validateRoom(c)
	l.validateWebhook(c)
	l.validateHooks(c)
	if c.Database == "" || c.Database == ":memory:" || strings.HasPrefix(c.Database, "file:") {
		l.problem(nil, "database", "must be the path of a file: rooms are to outlive the process")
	}
	l.level("logging.level", &c.Logging.Level)
}

func (l *loader) validateKeys(c *Config) {
	if len(c.Keys) == 0 && len(l.problems) == 0 {
		l.problem(nil, "keys", "no API keys; set keys, key_file or LIVEKIT_KEYS, or start with --dev")
	}
	names := make([]string, 0, len(c.Keys))
	for name := range c.Keys {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		secret := c.Keys[name]
		if strings.Contains(name, ":") {
			l.warn("keys: %s has a colon, where HTTP Basic ends a user name: it works with tokens alone", name)
		}
		switch {
		case name == "" || secret == "":
			l.problem(nil, "keys", "an API key and its secret must not be empty")
		case c.Development:
			// Other machines do not reach the server.
		case name == DevKey && secret == DevSecret:
			l.problem(nil, "keys", "%s has the secret that every developer knows; choose another, or start with --dev", name)
		case len(secret) < leastSecret:
			l.problem(nil, "keys", "the secret of %s is shorter than %d characters and is found by trying; choose one of %d or more",
				name, leastSecret, minSecret)
		case len(secret) < minSecret:
			l.warn("keys: the secret of %s is shorter than %d characters and can be guessed from a token", name, minSecret)
		}
	}
}

func (l *loader) validateEvents(e *Events) {
	if e.MaxCount < 0 {
		l.problem(nil, "events.max_count", "must not be negative; 0 is no limit")
	}
	if e.MaxAge == 0 {
		l.problem(nil, "events.max_age", "must be more than nothing, or forever")
	}
}

func (l *loader) validateListeners(c *Config) {
	if c.Audio.MaxForwarded < 0 {
		l.problem(nil, "audio.max_forwarded", "must not be negative; 0 is everybody")
	}
	l.port("port", c.Port)
	l.port("rtc.tcp_port", c.RTC.TCPPort)
	l.port("prometheus.port", c.Prometheus.Port)
	l.port("admin_port", c.AdminPort)
	l.port("debug_handler.port", c.DebugHandler.Port)
	if p := c.DebugHandler.Port; p != 0 && (p == c.Port || p == c.Prometheus.Port || p == c.AdminPort) {
		l.problem(nil, "debug_handler.port", "must differ from port, prometheus.port and admin_port")
	}
	if p := c.AdminPort; p != 0 && (p == c.Port || p == c.Prometheus.Port) {
		l.problem(nil, "admin_port", "must differ from port and prometheus.port")
	}
	if c.Port != 0 && c.Port == c.Prometheus.Port {
		l.problem(nil, "prometheus.port", "must differ from port")
	}
	l.addresses("bind_addresses", c.BindAddresses)
	if !slices.Equal(c.RTC.BindAddresses, c.BindAddresses) {
		l.addresses("rtc.bind_addresses", c.RTC.BindAddresses)
	}
	for _, cidr := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			l.problem(nil, "trusted_proxies", "%q is not a network such as 10.0.0.0/8", cidr)
		}
	}
	for i, origin := range c.CORSOrigins {
		c.CORSOrigins[i] = l.validateOrigin(origin, fmt.Sprintf("cors_origins[%d]", i))
	}
	l.validateTLS(c)
	if (c.Prometheus.Username == "") != (c.Prometheus.Password == "") {
		l.problem(nil, "prometheus", "needs both username and password, or neither")
	}
	if strings.Contains(c.Prometheus.Username, ":") {
		l.problem(nil, "prometheus.username", "must not have a colon: HTTP Basic ends the user name there")
	}
}

func (l *loader) addresses(path string, texts []string) {
	for _, a := range texts {
		if _, err := netip.ParseAddr(a); err != nil && a != "" { // LiveKit's "" means all addresses
			l.problem(nil, path, "%q is not an IP address", a)
		}
	}
}

func (l *loader) port(path string, p int) {
	if p < 0 || p > 65535 {
		l.problem(nil, path, "must be a port from 0 to 65535")
	}
}

func (l *loader) validateRTC(r *RTC) {
	l.port("rtc.port_range_start", r.PortRangeStart)
	l.port("rtc.port_range_end", r.PortRangeEnd)
	if r.PortRangeEnd < r.PortRangeStart {
		l.problem(nil, "rtc.port_range_end", "must not be less than rtc.port_range_start")
	}
	for _, cidr := range slices.Concat(r.IPs.Includes, r.IPs.Excludes) {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			l.problem(nil, "rtc.ips", "%q is not a network such as 10.0.0.0/8", cidr)
		}
	}
	if r.UseExternalIP && len(r.STUNServers) == 0 && r.NodeIP == (NodeIP{}) {
		l.warn("rtc.use_external_ip asks %s, since rtc.stun_servers names nobody; clients are not told of it", strings.Join(r.DiscoverySTUN(), " and "))
	}
	if r.DatachannelSlowThreshold < 0 {
		l.problem(nil, "rtc.datachannel_slow_threshold", "must not be negative")
	}
	l.validateSTUN(r)
	l.validateNodeIP(r.NodeIP)
	for i := range r.TURNServers {
		l.validateTURN(&r.TURNServers[i], fmt.Sprintf("rtc.turn_servers[%d]", i))
	}
}

func (l *loader) validateRoom(c *Config) {
	if d := c.Room.PlayoutDelay; d.Enabled {
		l.validateDelay("room.playout_delay", d.Min, d.Max)
	}
	if d := c.Room.OnDuplicateIdentity; d != "replace" && d != "reject" {
		l.problem(nil, "room.on_duplicate_identity", "must be replace or reject")
	}
	if !slices.Contains([]string{LobbyNames, LobbyCount, LobbyNothing}, c.Room.Lobby) {
		l.problem(nil, "room.lobby", "must be names, count or nothing")
	}
	l.validateCodecs(&c.Room)
	l.validatePresets(c)
	l.validateLimits(&c.Limit)
	for i := range c.Clients {
		if err := c.Clients[i].Check(); err != nil {
			l.problem(nil, fmt.Sprintf("clients[%d]", i), "%v", err)
		}
	}
}

// level checks a log level, and replaces LiveKit's other names for it.
func (l *loader) level(path string, level *string) {
	switch strings.ToLower(*level) {
	case "debug", "info", "warn", "error":
		*level = strings.ToLower(*level)
	case "trace":
		*level = "debug"
	case "warning":
		*level = "warn"
	case "":
		*level = "info"
	default:
		l.problem(nil, path, "must be debug, info, warn or error")
	}
}

func (l *loader) validateLimits(c *Limit) {
	for _, limit := range []struct {
		name  string
		value int64
	}{
		{"max_metadata_size", int64(c.MaxMetadataSize)},
		{"max_attributes_size", int64(c.MaxAttributesSize)},
		{"max_room_name_length", int64(c.MaxRoomNameLength)},
		{"max_participant_identity_length", int64(c.MaxParticipantIdentityLength)},
		{"max_participant_name_length", int64(c.MaxParticipantNameLength)},
		{"max_api_request_body_size", c.MaxAPIRequestBodySize},
		{"max_connections", int64(c.MaxConnections)},
		{"signal_message_size_limit", c.SignalMessageSizeLimit},
		{"max_data_track_custom_encoding_length", int64(c.MaxDataTrackCustomEncodingLength)},
		{"max_data_blob_key_length", int64(c.MaxDataBlobKeyLength)},
		{"max_data_blobs_size", int64(c.MaxDataBlobsSize)},
		{"data_blob_rate", int64(c.DataBlobRate)},
		{"agent_signal_message_size_limit", c.AgentSignalMessageSizeLimit},
		{"joins_per_address", int64(c.JoinsPerAddress)},
		{"joins_per_key", int64(c.JoinsPerKey)},
		{"requests_per_address", int64(c.RequestsPerAddress)},
		{"requests_per_key", int64(c.RequestsPerKey)},
		{"burst", int64(c.Burst)},
	} {
		if limit.value < 0 {
			l.problem(nil, "limit."+limit.name, "must not be negative; 0 is no limit")
		}
	}
}
