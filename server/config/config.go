// Package config reads Parlor's configuration: a YAML file with LiveKit's keys and
// meanings and a few of Parlor's own, overridden by the environment, which the command
// line overrides.
//
// A file written for LiveKit is read unchanged. [Keys] lists every known key, what it
// does, and whether it has an effect here. An unknown key is an error, because a misspelt
// limit limits nothing.
package config

import (
	"time"

	"parlor/server/devices"
)

// Config is the server's configuration. LiveKit's keys keep LiveKit's units; each field's
// comment names them.
type Config struct {
	Domain        string   `yaml:"domain"`         // this server's DNS name: it gets a certificate for it, and serves everything on one port
	Port          int      `yaml:"port"`           // TCP port of HTTP and WebSocket; 0 = any free one
	BindAddresses []string `yaml:"bind_addresses"` // IP addresses of every socket; empty = all
	// TrustedProxies are networks whose X-Forwarded-For is believed.
	TrustedProxies []string `yaml:"trusted_proxies"`
	CORSOrigins    []string `yaml:"cors_origins"` // origins whose pages may call /v1; "*" = any

	Keys    map[string]string `yaml:"keys"`     // API key → secret
	KeyFile string            `yaml:"key_file"` // YAML file of more keys, readable by its owner and group alone

	Database      string    `yaml:"database"`       // path of the SQLite file
	Replica       string    `yaml:"replica"`        // URL that the database is replicated to
	ExpectReplica bool      `yaml:"expect_replica"` // an empty replica is an error
	AdoptDatabase bool      `yaml:"adopt_database"` // the local database is the right one, whatever the replica has
	RestartGrace  Duration  `yaml:"restart_grace"`  // how long participants are expected back after a restart
	History       Retention `yaml:"history"`        // how long ended rooms are kept
	Invitations   bool      `yaml:"invitations"`    // links let people in without a token
	Events        Events    `yaml:"events"`

	RTC     RTC     `yaml:"rtc"`
	Audio   Audio   `yaml:"audio"`
	Room    Room    `yaml:"room"`
	Limit   Limit   `yaml:"limit"`
	Webhook Webhook `yaml:"webhook"`
	Hooks   Hooks   `yaml:"hooks"`

	EnableDataTracks bool `yaml:"enable_data_tracks"`
	// EnableParticipantDataBlob lets participants store blobs for others to fetch.
	EnableParticipantDataBlob bool `yaml:"enable_participant_data_blob"`

	Clients []devices.Rule `yaml:"clients"` // what kinds of clients are not to do, beside what is known

	TLS            TLS        `yaml:"tls"`
	TURN           TURN       `yaml:"turn"`
	Prometheus     Prometheus `yaml:"prometheus"`
	PrometheusPort int        `yaml:"prometheus_port"` // LiveKit's old name of prometheus.port
	DebugHandler   Debug      `yaml:"debug_handler"`
	Logging        Logging    `yaml:"logging"`
	LogLevel       string     `yaml:"log_level"` // LiveKit's old name of logging.level
	Region         string     `yaml:"region"`    // told to clients in the join response

	Admin     bool `yaml:"admin"`      // there is a dashboard
	AdminPort int  `yaml:"admin_port"` // TCP port of the dashboard alone; 0 = it is on Port

	Development bool `yaml:"development"` // well-known keys, loopback only, the page open to everyone
}

// Events bounds the event log that is kept for programs that pull it. Events that are not
// delivered yet are kept in any case.
type Events struct {
	MaxAge   Retention `yaml:"max_age"`
	MaxCount int64     `yaml:"max_count"` // 0 = no limit
}

// RTC configures how media is received and sent.
type RTC struct {
	UDPPort                 PortRange    `yaml:"udp_port"`         // one socket for all participants, or one for each port of a range
	PortRangeStart          int          `yaml:"port_range_start"` // LiveKit's socket per transport; see UDPPorts
	PortRangeEnd            int          `yaml:"port_range_end"`
	TCPPort                 int          `yaml:"tcp_port"`       // ICE over TCP (RFC 6544); 0 = none
	BindAddresses           []string     `yaml:"bind_addresses"` // for media, in place of the server's
	NodeIP                  NodeIP       `yaml:"node_ip"`        // address to advertise instead of the host's own
	UseExternalIP           bool         `yaml:"use_external_ip"`
	EnableLoopbackCandidate bool         `yaml:"enable_loopback_candidate"`
	Interfaces              Filter       `yaml:"interfaces"`   // by name
	IPs                     Filter       `yaml:"ips"`          // by CIDR
	STUNServers             []string     `yaml:"stun_servers"` // host:port, sent to clients; see DiscoverySTUN
	TURNServers             []TURNServer `yaml:"turn_servers"` // sent to clients

	CongestionControl CongestionControl `yaml:"congestion_control"`

	// DatachannelSlowThreshold is the bit rate below which a receiver of reliable data that
	// makes a sender wait loses some; 0 = none does, it is told to reconnect instead.
	DatachannelSlowThreshold int `yaml:"datachannel_slow_threshold"`
	// How late data may reach a client, beside the round trip; 0 = as late as it may.
	DatachannelLossyTargetLatency     Duration `yaml:"datachannel_lossy_target_latency"`
	DatachannelDataTrackTargetLatency Duration `yaml:"datachannel_data_track_target_latency"`
}

// CongestionControl configures what happens on paths that are too narrow.
type CongestionControl struct {
	AllowPause bool `yaml:"allow_pause"` // of video, unless the client asks otherwise
}

// Audio configures how audio is forwarded.
type Audio struct {
	MaxForwarded int `yaml:"max_forwarded"` // voices to one participant; 0 = all
}

// TURN configures the built-in TURN server.
type TURN struct {
	Enabled     bool   `yaml:"enabled"`
	Domain      string `yaml:"domain"`
	UDPPort     int    `yaml:"udp_port"` // 0 = none, or the default if there is no TLS port
	TLSPort     int    `yaml:"tls_port"` // 0 = none
	ExternalTLS bool   `yaml:"external_tls"`
	// ProxyProtocol: each connection to TLSPort begins with a PROXY header, and comes from a
	// proxy in one of the networks.
	ProxyProtocol             bool     `yaml:"proxy_protocol"`
	ProxyProtocolTrustedCIDRs []string `yaml:"proxy_protocol_trusted_cidrs"`
	CertFile                  string   `yaml:"cert_file"` // both or none; instead of TLS's certificate
	KeyFile                   string   `yaml:"key_file"`
	TTLSeconds                int      `yaml:"ttl_seconds"`
	ForceRelay                bool     `yaml:"force_relay"`

	Relay           Relay    `yaml:"relay"`
	DenyPeerCIDRs   []string `yaml:"deny_peer_cidrs"` // LiveKit's key for more of Relay.Deny
	RelayRangeStart int      `yaml:"relay_range_start"`
	RelayRangeEnd   int      `yaml:"relay_range_end"`

	// Relays at a time; 0 = no limit.
	MaxAllocations               int `yaml:"max_allocations"`
	MaxAllocationsPerParticipant int `yaml:"max_allocations_per_participant"`
	MaxAllocationsPerAddress     int `yaml:"max_allocations_per_address"`
	PerUserRelayAllocationLimit  int `yaml:"per_user_relay_allocation_limit"` // LiveKit's name of MaxAllocationsPerParticipant
}

// Relay tells where relays may lead besides the server's own media, as CIDR.
type Relay struct {
	Allow []string `yaml:"allow"`
	Deny  []string `yaml:"deny"`
}

// Filter includes and excludes items; empty includes = everything. An item in both is
// included.
type Filter struct {
	Includes []string `yaml:"includes"`
	Excludes []string `yaml:"excludes"`
}

// TURNServer is an external TURN server (RFC 8656), announced to clients.
type TURNServer struct {
	Host            string `yaml:"host"`
	Port            int    `yaml:"port"`
	Protocol        string `yaml:"protocol"` // udp, tcp or tls
	Username        string `yaml:"username"`
	Credential      string `yaml:"credential"`
	CredentialsFile string `yaml:"credentials_file"` // YAML file with username and credential
	Secret          string `yaml:"secret"`           // shared with the server, in place of username and credential
	SecretFile      string `yaml:"secret_file"`      // file of the secret
	TTL             int    `yaml:"ttl"`              // seconds that credentials made with the secret can be used
}

// HasCredentials reports whether clients can be given credentials for the server.
func (t *TURNServer) HasCredentials() bool {
	return t.Secret != "" || t.Username != "" && t.Credential != ""
}

// Lifetime is how long credentials that are made with the secret can be used: LiveKit's four
// hours if nothing is said, and its bounds of five minutes and a day.
func (t *TURNServer) Lifetime() time.Duration {
	const unset, least, most = 4 * time.Hour, 5 * time.Minute, 24 * time.Hour
	switch {
	case t.TTL == 0:
		return unset
	case t.TTL < 0:
		return least
	}
	return min(time.Duration(min(t.TTL, int(most/time.Second)))*time.Second, most)
}

// Room has the defaults of new rooms, and rules for all rooms.
type Room struct {
	AutoCreate                   bool              `yaml:"auto_create"` // the first join creates the room
	EmptyTimeout                 Seconds           `yaml:"empty_timeout"`
	DepartureTimeout             Seconds           `yaml:"departure_timeout"`
	MaxParticipants              uint32            `yaml:"max_participants"` // 0 = no limit
	EnabledCodecs                []Codec           `yaml:"enabled_codecs"`
	EnableFullRoomInWebhooks     bool              `yaml:"enable_full_room_in_webhooks"`
	EnableRemoteUnmute           bool              `yaml:"enable_remote_unmute"`
	OnDuplicateIdentity          string            `yaml:"on_duplicate_identity"` // replace or reject
	Lobby                        string            `yaml:"lobby"`                 // LobbyNames, LobbyCount or LobbyNothing
	PlayoutDelay                 PlayoutDelay      `yaml:"playout_delay"`
	SyncStreams                  bool              `yaml:"sync_streams"`
	RoomConfigurations           map[string]Preset `yaml:"room_configurations"`             // presets by name
	MaxMetadataSize              int               `yaml:"max_metadata_size"`               // LiveKit's old name of limit.…
	MaxRoomNameLength            int               `yaml:"max_room_name_length"`            // as above
	MaxParticipantIdentityLength int               `yaml:"max_participant_identity_length"` // as above
}

// The values of Room.Lobby: what those who are no hosts are told of the people in a room that
// would let them in.
const (
	LobbyNames   = "names" // how many they are, and their names
	LobbyCount   = "count" // how many they are
	LobbyNothing = "nothing"
)

// Codec is a codec that may be published.
type Codec struct {
	Mime string `yaml:"mime"`
}

// PlayoutDelay is the playout delay that subscribers are asked for, in ms.
type PlayoutDelay struct {
	Enabled bool   `yaml:"enabled"`
	Min     uint32 `yaml:"min"`
	Max     uint32 `yaml:"max"`
}

// Limit bounds what a client may ask for. Lengths are in bytes; 0 = no limit.
type Limit struct {
	MaxMetadataSize              int   `yaml:"max_metadata_size"`
	MaxAttributesSize            int   `yaml:"max_attributes_size"`
	MaxRoomNameLength            int   `yaml:"max_room_name_length"`
	MaxParticipantIdentityLength int   `yaml:"max_participant_identity_length"`
	MaxParticipantNameLength     int   `yaml:"max_participant_name_length"`
	MaxAPIRequestBodySize        int64 `yaml:"max_api_request_body_size"`
	MaxConnections               int   `yaml:"max_connections"` // signalling WebSockets
	SignalMessageSizeLimit       int64 `yaml:"signal_message_size_limit"`
	AgentSignalMessageSizeLimit  int64 `yaml:"agent_signal_message_size_limit"`

	MaxDataTrackCustomEncodingLength int `yaml:"max_data_track_custom_encoding_length"`
	MaxDataBlobKeyLength             int `yaml:"max_data_blob_key_length"`
	MaxDataBlobsSize                 int `yaml:"max_data_blobs_size"`
	DataBlobRate                     int `yaml:"data_blob_rate"` // bytes a minute
	SubscriptionLimitVideo           int `yaml:"subscription_limit_video"`
	SubscriptionLimitAudio           int `yaml:"subscription_limit_audio"`

	// Requests a second; 0 = no limit.
	JoinsPerAddress    int      `yaml:"joins_per_address"`
	JoinsPerKey        int      `yaml:"joins_per_key"`
	RequestsPerAddress int      `yaml:"requests_per_address"`
	RequestsPerKey     int      `yaml:"requests_per_key"`
	Burst              Duration `yaml:"burst"` // the requests of that long may come at once
}

// Webhook configures the endpoints that events are sent to.
type Webhook struct {
	URLs             []string          `yaml:"urls"`
	Endpoints        []WebhookEndpoint `yaml:"endpoints"` // besides those of URLs
	APIKey           string            `yaml:"api_key"`   // one of Keys; signs the deliveries
	FilterParams     FilterParams      `yaml:"filter_params"`
	Ordering         string            `yaml:"ordering"`          // relaxed or strict
	AfterReplication bool              `yaml:"after_replication"` // send an event only when the replica has it
	MaxPending       int64             `yaml:"max_pending"`       // of one endpoint; 0 = no limit
}

// WebhookEndpoint is a receiver with its own settings; the section's settings apply where
// one is left out.
type WebhookEndpoint struct {
	URL          string       `yaml:"url"`
	Name         string       `yaml:"name"`          // for people
	APIKey       string       `yaml:"api_key"`       // one of Keys
	FilterParams FilterParams `yaml:"filter_params"` // in place of the section's
	Ordering     string       `yaml:"ordering"`
	Secrets      []string     `yaml:"secrets"`     // of Standard Webhooks, "whsec_…"; all of them sign
	RetryFor     Retention    `yaml:"retry_for"`   // until an event is a dead letter; 0 = 75 h
	Concurrency  int          `yaml:"concurrency"` // requests at a time; 0 = 8
}

// FilterParams selects events by type. ExcludeEvents counts only without IncludeEvents.
type FilterParams struct {
	IncludeEvents []string `yaml:"include_events"` // empty = all that LiveKit sends
	ExcludeEvents []string `yaml:"exclude_events"`
}

// Empty reports whether f selects nothing.
func (f FilterParams) Empty() bool { return len(f.IncludeEvents)+len(f.ExcludeEvents) == 0 }

// Hooks are URLs that are asked before something is allowed.
type Hooks struct {
	Authorize string   `yaml:"authorize"` // URL
	Timeout   Duration `yaml:"timeout"`
	OnFailure string   `yaml:"on_failure"` // allow or deny
	Cache     Duration `yaml:"cache"`      // how long an answer is kept for its token
}

// TLS makes the HTTP port speak TLS: with a certificate from the two files, by ACME for
// Config.Domain, or signed by the server itself.
type TLS struct {
	CertFile   string `yaml:"cert_file"` // both or none
	KeyFile    string `yaml:"key_file"`
	SelfSigned bool   `yaml:"self_signed"`
	HTTPPort   int    `yaml:"http_port"` // answers ACME, and redirects to TLS; 0 = none
	ACME       ACME   `yaml:"acme"`
}

// ACME configures the certificate authority.
type ACME struct {
	Directory string `yaml:"directory"` // URL; "" = Let's Encrypt
	Email     string `yaml:"email"`     // contact for the authority
	Staging   bool   `yaml:"staging"`   // use Let's Encrypt's staging environment
}

// OneDoor reports whether HTTP shares its port with ICE over TCP or with TURN.
func (c *Config) OneDoor() bool {
	return c.Port != 0 && (c.RTC.TCPPort == c.Port || c.TURN.Enabled && c.TURN.TLSPort == c.Port)
}

// SpeaksTLS reports whether the HTTP port speaks TLS.
func (c *Config) SpeaksTLS() bool { return c.TLS.CertFile != "" || c.Domain != "" || c.TLS.SelfSigned }

// Prometheus configures the port of /metrics; port 0 = none.
type Prometheus struct {
	Port     int    `yaml:"port"`
	Username string `yaml:"username"` // both or none
	Password string `yaml:"password"`
}

// Debug configures the profiles.
type Debug struct {
	Port int `yaml:"port"` // TCP port on the loopback addresses; 0 = none
}

// Logging configures the log, which goes to standard error.
type Logging struct {
	Level string `yaml:"level"` // debug, info, warn or error
	JSON  bool   `yaml:"json"`
}

// Default is the configuration of an empty file.
func Default() *Config {
	return &Config{
		Port:           7880,
		TrustedProxies: []string{"127.0.0.0/8", "::1/128"},
		CORSOrigins:    []string{"*"},
		Admin:          true,

		Database:     "parlor.db",
		RestartGrace: Duration(time.Minute),
		History:      Retention(30 * 24 * time.Hour),
		Webhook:      Webhook{MaxPending: 1_000_000},
		Events:       Events{MaxAge: Retention(3 * 24 * time.Hour), MaxCount: 10_000_000},
		RTC:          RTC{TCPPort: 7881, DatachannelDataTrackTargetLatency: Duration(100 * time.Millisecond)},
		Room:         Room{AutoCreate: true, EmptyTimeout: 300, DepartureTimeout: 20, OnDuplicateIdentity: "replace", Lobby: LobbyNames},
		Limit: Limit{
			MaxMetadataSize:              512 << 10,
			MaxAttributesSize:            64 << 10,
			MaxRoomNameLength:            256,
			MaxParticipantIdentityLength: 256,
			MaxParticipantNameLength:     256,
			MaxAPIRequestBodySize:        10 << 20,
			SignalMessageSizeLimit:       2 << 20,
			AgentSignalMessageSizeLimit:  2 << 20,

			MaxDataTrackCustomEncodingLength: 32,
			MaxDataBlobKeyLength:             256,
			MaxDataBlobsSize:                 64_000,
			DataBlobRate:                     100_000,

			JoinsPerAddress:    100,
			JoinsPerKey:        1000,
			RequestsPerAddress: 1000,
			RequestsPerKey:     5000,
			Burst:              Duration(10 * time.Second),
		},
		EnableDataTracks: true,

		TURN: TURN{
			TTLSeconds: 300, ProxyProtocolTrustedCIDRs: []string{"127.0.0.0/8", "::1/128"},
			MaxAllocations: 8192, MaxAllocationsPerParticipant: 32, MaxAllocationsPerAddress: 1024,
		},
		Hooks:   Hooks{Timeout: Duration(5 * time.Second), OnFailure: "deny", Cache: Duration(10 * time.Second)},
		Logging: Logging{Level: "info"},
	}
}

// DiscoverySTUN are the servers that rtc.use_external_ip asks: rtc.stun_servers, or else
// public servers, which are never sent to clients. Without rtc.use_external_ip there are
// none.
func (r *RTC) DiscoverySTUN() []string {
	switch {
	case !r.UseExternalIP:
		return nil
	case len(r.STUNServers) > 0:
		return r.STUNServers
	}
	return []string{"stun.cloudflare.com:3478", "stun.l.google.com:19302"}
}

// DefaultUDPPort is the port of media if none is configured.
const DefaultUDPPort = 7882

// UDPPorts are the ports to receive media on: rtc.udp_port; without it the first port of
// rtc.port_range_start…end, because Parlor needs one socket where LiveKit needs one per
// transport, and a firewall that opens the range opens its first port; without both,
// [DefaultUDPPort]. Port 0 means any free port.
func (r *RTC) UDPPorts() []int {
	switch {
	case r.UDPPort.Set:
		ports := make([]int, 0, r.UDPPort.End-r.UDPPort.Start+1)
		for p := r.UDPPort.Start; p <= r.UDPPort.End; p++ {
			ports = append(ports, p)
		}
		return ports
	case r.PortRangeStart > 0:
		return []int{r.PortRangeStart}
	}
	return []int{DefaultUDPPort}
}
