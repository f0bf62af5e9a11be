package config

import "strings"

// Effect tells what a known key does in Parlor.
type Effect int

const (
	// Applied: the key does what its line says.
	Applied Effect = iota
	// Renamed: an old name of LiveKit's, which is applied; its line gives the new name.
	Renamed
	// Cluster: the key has a meaning only for several servers.
	Cluster
	// Tuning: the key adjusts something that Parlor does in another way than LiveKit.
	Tuning
	// Absent: the key belongs to a feature that this version of Parlor does not have.
	Absent
)

// Key is one line of the table of configuration keys.
type Key struct {
	// Path is the key with its sections, "rtc.udp_port"; "[]" stands for the items of a
	// list; a trailing ".*" stands for all keys below.
	Path   string
	Effect Effect
	Doc    string // one line, for a person
}

// Env is the environment variable that sets k; "" if there is none.
func (k Key) Env() string {
	if k.Effect != Applied || strings.ContainsAny(k.Path, "[*") {
		return ""
	}
	return "PARLOR_" + strings.ToUpper(strings.ReplaceAll(k.Path, ".", "_"))
}

// Keys returns every key that a configuration file may have, in the order of the
// reference. A test compares it with [Config].
func Keys() []Key {
	return []Key{
		{"domain", Applied, "the name that leads to this server: it gets a certificate for it, by ACME, and serves all on TCP and UDP port 443, TURN included, unless other keys say otherwise"},
		{"port", Applied, "TCP port of HTTP and WebSocket; 0 takes any free one"},
		{"bind_addresses", Applied, "IP addresses to listen on, with every socket: HTTP, metrics and media; all if empty, loopback alone in development"},
		{"trusted_proxies", Applied, "networks whose `X-Forwarded-For`, `-Proto` and `-Prefix` are believed, as CIDR; loopback without it"},
		{"cors_origins", Applied, "origins whose pages may call `/v1`, such as `https://app.example`; all without it, none if `[]`. LiveKit's routes take every origin"},
		{"keys", Applied, "API keys and their secrets, `key: secret`; secrets of 32 characters or more, with a warning of 16"},
		{"key_file", Applied, "YAML file of more API keys, not readable by others"},
		{"admin", Applied, "the dashboard at `/admin`, for those who have an API key and its secret, or a link of `parlor admin-link`"},
		{"admin_port", Applied, "TCP port of the dashboard alone, in place of `port`; 0 = it is on `port`"},
		{"development", Applied, "well-known keys, loopback alone, the page and `/metrics` open; as `--dev`"},

		{"database", Applied, "path of the SQLite file; made if it does not exist, in a folder that does"},
		{"replica", Applied, "URL that the database is replicated to: `s3://bucket/path?endpoint=…`, `file:///path`"},
		{"expect_replica", Applied, "refuse to start if there is nothing on the replica"},
		{"adopt_database", Applied, "the database here is right, whatever the replica has"},
		{"restart_grace", Applied, "how long participants are expected back after a restart"},
		{"invitations", Applied, "let people in by links that `parlor invite`, the API and hosts in a call make"},
		{"history", Applied, "how long ended rooms are kept, and who left rooms that are still open, but for the newest 128 of a room: `720h`, `30d`, `forever`"},
		{"events.max_age", Applied, "how long events are kept for those who pull them: `72h`, `3d`, `forever`"},
		{"events.max_count", Applied, "how many events are kept; 0 = no limit. Those not delivered yet are kept in any case"},
		{"tls.cert_file", Applied, "PEM certificate chain; with it the HTTP port speaks TLS. With `domain`, in place of ACME"},
		{"tls.key_file", Applied, "PEM private key"},
		{"tls.self_signed", Applied, "speak TLS with a certificate that this server signs itself, kept in the folder `certificates` beside the database; clients must be told to trust it"},
		{"tls.http_port", Applied, "port of plain HTTP that answers ACME and sends everybody else to TLS; 80 with `domain`, 0 = none"},
		{"tls.acme.directory", Applied, "URL of the certificate authority's directory; Let's Encrypt's if left out"},
		{"tls.acme.email", Applied, "address that the certificate authority may write to"},
		{"tls.acme.staging", Applied, "Let's Encrypt's staging, to try things out: what it signs nobody trusts"},
		{"hooks.authorize", Applied, "URL asked before somebody is let into a room; signed with `webhook.api_key`, or the only key"},
		{"hooks.timeout", Applied, "how long its answer may take"},
		{"hooks.on_failure", Applied, "`allow` or `deny` when there is no answer"},
		{"hooks.cache", Applied, "how long an answer holds for its token; 0 = not at all"},

		{"rtc.udp_port", Applied, "UDP port of media for all participants, or a range `7882-7892`, one socket each; 0 takes any free one"},
		{"rtc.port_range_start", Applied, "without `rtc.udp_port`: media is received on the first port of this range"},
		{"rtc.port_range_end", Applied, "end of that range"},
		{"rtc.tcp_port", Applied, "port of ICE over TCP; 0 turns it off"},
		{"rtc.bind_addresses", Applied, "IP addresses to receive media on, in place of `bind_addresses`; all if `[]`"},
		{"rtc.node_ip", Applied, "address to advertise to clients instead of the host's own; `v4,v6` for one of each family, else that family alone is advertised"},
		{"rtc.use_external_ip", Applied, "ask a STUN server of `rtc.stun_servers` for the address to advertise; without them public ones, which clients are not told of"},
		{"rtc.enable_loopback_candidate", Applied, "advertise loopback addresses; `true` where media is on loopback alone"},
		{"rtc.interfaces.includes", Applied, "network interfaces to use; all if empty"},
		{"rtc.interfaces.excludes", Applied, "network interfaces not to use"},
		{"rtc.ips.includes", Applied, "networks whose addresses are used, as CIDR; all if empty"},
		{"rtc.ips.excludes", Applied, "networks whose addresses are not used"},
		{"rtc.stun_servers", Applied, "STUN servers handed to clients, `host:port`, or `stun:` before it; port 3478 if left out; none if empty"},
		{"rtc.turn_servers", Applied, "TURN servers handed to clients"},
		{"rtc.turn_servers[].host", Applied, "name or address"},
		{"rtc.turn_servers[].port", Applied, "port"},
		{"rtc.turn_servers[].protocol", Applied, "`udp`, `tcp` or `tls`"},
		{"rtc.turn_servers[].username", Applied, "fixed user name"},
		{"rtc.turn_servers[].credential", Applied, "fixed password"},
		{"rtc.turn_servers[].credentials_file", Applied, "YAML file with `username` and `credential`"},
		{"rtc.turn_servers[].secret", Applied, "secret that it shares with the TURN server, coturn's `static-auth-secret`: clients get credentials that expire, in place of fixed ones"},
		{"rtc.turn_servers[].secret_file", Applied, "file of that secret"},
		{"rtc.turn_servers[].ttl", Applied, "seconds that such credentials can be used, 300 to 86400; 0 = 14400"},

		{"rtc.datachannel_slow_threshold", Applied, "bits a second: a client that takes less of its reliable data than that, over 2 s in which a sender waits for it, loses what waits for it; 0 = nobody loses any, see above"},
		{"rtc.datachannel_lossy_target_latency", Applied, "how late a lossy message may reach a client, beside the round trip, before later ones are dropped; `0s` = as late as it may"},
		{"rtc.datachannel_data_track_target_latency", Applied, "as above, of packets of data tracks"},
		{"rtc.congestion_control.allow_pause", Applied, "pause video of which not even the lowest layer fits, the least important first, and tell the client; it may ask otherwise when it joins"},

		{"audio.max_forwarded", Applied, "how many participants' sound goes to one participant, the loudest; 0 = everybody's"},
		{"turn.enabled", Applied, "the TURN server inside, for clients that reach no port of media; `rtc.turn_servers` names others"},
		{"turn.domain", Applied, "its name, which its certificate is for; TLS needs it"},
		{"turn.udp_port", Applied, "its UDP port, which may be that of `rtc.udp_port`; 3478 if no other port is given"},
		{"turn.tls_port", Applied, "its port of TLS; clients are told of this and, as LiveKit does it, of 443"},
		{"turn.external_tls", Applied, "a load balancer speaks TLS: `turn.tls_port` is of plain TCP, and clients are told of port 443 of `turn.domain`"},
		{"turn.proxy_protocol", Applied, "each connection to `turn.tls_port` begins with a header of the PROXY protocol, version 1 or 2, in which a proxy names its client; other connections are closed"},
		{"turn.proxy_protocol_trusted_cidrs", Applied, "networks of the proxies that may do so, as CIDR; loopback if left out"},
		{"turn.cert_file", Applied, "PEM certificate chain for `turn.tls_port`; `tls.cert_file` if left out"},
		{"turn.key_file", Applied, "PEM private key"},
		{"turn.ttl_seconds", Applied, "how long a participant's credentials can be used for a new relay; relays live as long as its session"},
		{"turn.force_relay", Applied, "clients are to use nothing but TURN"},
		{"turn.relay.allow", Applied, "networks that clients may reach through relays, as CIDR, beside this server's media. Private, loopback and link-local addresses are in no other network; this machine's own are in none"},
		{"turn.relay.deny", Applied, "networks taken out of those"},
		{"turn.deny_peer_cidrs", Applied, "more of them, by LiveKit's name"},
		{"turn.relay_range_start", Applied, "first UDP port of relays to `turn.relay.allow`; those to this server's media need none. Any if left out"},
		{"turn.relay_range_end", Applied, "the last"},
		{"turn.max_allocations", Applied, "relays at a time; 0 = no limit, as below"},
		{"turn.max_allocations_per_participant", Applied, "of one participant"},
		{"turn.max_allocations_per_address", Applied, "of one client address, or IPv6 network of 64 bits; not with `turn.external_tls`, unless `turn.proxy_protocol` tells them"},
		{"turn.per_user_relay_allocation_limit", Renamed, "LiveKit's name of `turn.max_allocations_per_participant`"},

		{"room.auto_create", Applied, "the first join creates the room"},
		{"room.empty_timeout", Applied, "seconds a room stays open that nobody has joined, or `never`"},
		{"room.departure_timeout", Applied, "seconds a room stays open after the last has left, or `never`"},
		{"room.max_participants", Applied, "participants in a room; 0 = no limit"},
		{"room.enabled_codecs", Applied, "codecs that may be published; all that Parlor knows if empty"},
		{"room.enabled_codecs[].mime", Applied, "such as `video/vp8`"},
		{"room.enable_remote_unmute", Applied, "the API may unmute tracks"},
		{"room.enable_full_room_in_webhooks", Applied, "webhooks of tracks tell of the whole room, and not of its name and SID alone"},
		{"room.on_duplicate_identity", Applied, "who joins under the identity of somebody connected: `replace` that one, or `reject` the newcomer with 409"},
		{"room.lobby", Applied, "what those whom a room would let in at once are told before they join: the `names` of the people there, their `count`, or `nothing`; hosts are told the names in any case"},
		{"room.playout_delay.enabled", Applied, "ask subscribers for a playout delay"},
		{"room.playout_delay.min", Applied, "its least, in milliseconds"},
		{"room.playout_delay.max", Applied, "its most, in milliseconds"},
		{"room.sync_streams", Applied, "put a participant's audio and video into one stream"},
		{"room.room_configurations", Applied, "presets by name, for `room_preset` in requests and tokens"},
		{"room.max_metadata_size", Renamed, "old name of `limit.max_metadata_size`"},
		{"room.max_room_name_length", Renamed, "old name of `limit.max_room_name_length`"},
		{"room.max_participant_identity_length", Renamed, "old name of `limit.max_participant_identity_length`"},

		{"limit.max_metadata_size", Applied, "bytes of a room's or participant's metadata; 0 = no limit, as below"},
		{"limit.max_attributes_size", Applied, "bytes of a participant's attributes, of a room's tags, and of the identities that a hold leaves out"},
		{"limit.max_room_name_length", Applied, "bytes of a room's name"},
		{"limit.max_participant_identity_length", Applied, "bytes of an identity"},
		{"limit.max_participant_name_length", Applied, "bytes of a participant's name"},
		{"limit.max_api_request_body_size", Applied, "bytes of a request's body"},
		{"limit.max_connections", Applied, "signalling WebSockets; one more is answered with 503"},
		{"limit.signal_message_size_limit", Applied, "bytes of a message of a client; a longer one closes its connection with 1009"},
		{"limit.agent_signal_message_size_limit", Applied, "bytes of a message of an agents' worker; a longer one closes its connection with 1009"},
		{"limit.max_data_track_custom_encoding_length", Applied, "bytes of the name of a data track's own encoding"},
		{"limit.max_data_blob_key_length", Applied, "bytes of the key of a data blob"},
		{"limit.max_data_blobs_size", Applied, "bytes of all data blobs of a participant, with their keys; one is of 64 kB at most"},
		{"limit.subscription_limit_video", Applied, "video tracks that a participant is subscribed to at a time; what more it wants waits until one of them ends"},
		{"limit.subscription_limit_audio", Applied, "the same of audio tracks; see `audio.max_forwarded`, too"},
		{"limit.data_blob_rate", Applied, "bytes of data blobs that a participant may store a minute in the long run, and 16 minutes' worth at once; in a room, 16 times as much"},
		{"limit.joins_per_address", Applied, "connects a second of one client address, or IPv6 network of 64 bits; more are answered with 503"},
		{"limit.joins_per_key", Applied, "connects a second with tokens of one API key"},
		{"limit.requests_per_address", Applied, "API requests a second of one client address; more are answered with 429"},
		{"limit.requests_per_key", Applied, "API requests a second with one API key"},
		{"limit.burst", Applied, "the joins and requests of so long may come at once"},

		{"enable_data_tracks", Applied, "participants may publish data tracks"},
		{"enable_participant_data_blob", Applied, "participants may store blobs, such as schemas of their data tracks, that others fetch"},

		{"clients", Applied, "what kinds of clients are not to do, beside what Parlor knows of them; all that are of a client are applied"},
		{"clients[].sdks", Applied, "which it is of: SDKs, such as `js`, `swift`, `android`; of this and the next six, all that are set must be so, of a list one"},
		{"clients[].version", Applied, "the SDK's version: `< 2.1`, `<= 2`, `> 18.3`, `>= 3`, `17.1`"},
		{"clients[].os", Applied, "operating systems, such as `ios`, `android`, `windows`"},
		{"clients[].os_version", Applied, "its version, as above"},
		{"clients[].device_models", Applied, "models of devices, as they call themselves"},
		{"clients[].browsers", Applied, "browsers, such as `safari`, `firefox`, `chrome`"},
		{"clients[].browser_version", Applied, "the browser's version, as above"},
		{"clients[].disabled_codecs", Applied, "codecs that they neither send nor are sent, such as `video/av1`"},
		{"clients[].disabled_publish_codecs", Applied, "codecs that they do not send"},
		{"clients[].force_relay", Applied, "they are to use nothing but TURN"},
		{"clients[].no_resume", Applied, "they are not to resume a lost connection, but to begin again"},

		{"webhook.urls", Applied, "URLs that are told of events"},
		{"webhook.endpoints", Applied, "more receivers, each with settings of its own"},
		{"webhook.endpoints[].url", Applied, "where to"},
		{"webhook.endpoints[].name", Applied, "what logs and `/v1/webhooks` call it"},
		{"webhook.endpoints[].api_key", Applied, "the API key that signs; `webhook.api_key` if left out"},
		{"webhook.endpoints[].filter_params.include_events", Applied, "types of events to send; with `exclude_events` it replaces `webhook.filter_params`"},
		{"webhook.endpoints[].filter_params.exclude_events", Applied, "types of events not to send"},
		{"webhook.endpoints[].ordering", Applied, "`relaxed` or `strict`; `webhook.ordering` if left out"},
		{"webhook.endpoints[].secrets", Applied, "Standard Webhooks secrets, `whsec_…`, each of which signs; derived from the API secret if left out"},
		{"webhook.endpoints[].retry_for", Applied, "how long an event is tried until it is a dead letter; 75 h if left out"},
		{"webhook.endpoints[].concurrency", Applied, "requests at a time; 8 if left out"},
		{"webhook.api_key", Applied, "the API key that signs, one of `keys`"},
		{"webhook.filter_params.include_events", Applied, "types of events to send; all if empty"},
		{"webhook.filter_params.exclude_events", Applied, "types of events not to send"},
		{"webhook.ordering", Applied, "`relaxed`: later events of a room pass one that keeps failing; `strict`: they wait"},
		{"webhook.after_replication", Applied, "send an event only when the replica has it"},
		{"webhook.max_pending", Applied, "deliveries that may wait for one endpoint: beyond it the oldest become dead letters; 0 = no limit"},

		{"debug_handler.port", Applied, "TCP port of profiles for `go tool pprof` (`/debug/pprof/`), on the loopback addresses alone, whatever `bind_addresses` says; 0 = none"},
		{"logging.level", Applied, "`debug`, `info`, `warn` or `error`"},
		{"logging.json", Applied, "log lines as JSON"},
		{"prometheus.port", Applied, "port of `/metrics`; 0 = none"},
		{"prometheus.username", Applied, "asked for by HTTP Basic, with the password"},
		{"prometheus.password", Applied, "its password"},
		{"region", Applied, "told to clients when they join"},

		{"prometheus_port", Renamed, "old name of `prometheus.port`"},
		{"log_level", Renamed, "old name of `logging.level`"},

		{"redis.*", Cluster, "state is in the database"},
		{"node_selector.*", Cluster, "there is one server"},
		{"signal_relay.*", Cluster, "signalling and media are one process"},
		{"psrpc.*", Cluster, "calls between parts are function calls"},
		{"node_stats.*", Cluster, "statistics of nodes"},
		{"api.*", Cluster, "time-outs of calls between nodes"},
		{"room.create_room_timeout", Cluster, "time-out of a call between nodes"},
		{"room.create_room_attempts", Cluster, "retries of a call between nodes"},

		{"ingress.*", Absent, "RTMP and WHIP ingress service"},
		{"sip.*", Absent, "telephony"},
		{"webtransport.*", Absent, "agents over WebTransport"},
		{"trace.*", Absent, "tracing"},
		{"limit.subscribe_pace_shadow_rates", Absent, "an experiment of LiveKit's"},
		{"rtc.flexfec.*", Absent, "forward error correction"},
		{"rtc.advertise_internal_ip", Absent, "internal addresses beside the external one"},
		{"rtc.use_ice_lite", Absent, "a lite ICE agent"},
		{"limit.num_tracks", Absent, "tracks are not counted; `limit.max_connections` bounds what the server takes on"},
		{"limit.bytes_per_sec", Absent, "bytes are not counted; `limit.max_connections` bounds what the server takes on"},
		{"environment", Absent, "an old key of LiveKit's"},

		{"rtc.allow_tcp_fallback", Tuning, "clients are offered ICE over TCP if rtc.tcp_port is set"},
		{"rtc.packet_buffer_size_video", Tuning, "packets are kept by time"},
		{"rtc.packet_buffer_size_audio", Tuning, "packets are kept by time"},
		{"room.enabled_codecs[].fmtp_line", Tuning, "format parameters"},
		{"metric.*", Tuning, "metrics of clients go to those that may subscribe to them, as they came"},
		{"logging.pion_level", Tuning, "its lines come with level debug"},
		{"rtc.packet_buffer_size", Tuning, "packets are kept by time"},
		{"rtc.pli_throttle.*", Tuning, "keyframe requests"},
		{"rtc.batch_io.*", Tuning, "packets are always sent in batches"},
		{"rtc.strict_acks", Tuning, "data channels"},
		{"rtc.use_mdns", Tuning, "mDNS candidates"},
		{"rtc.use_stun_port_as_ice", Tuning, "candidates"},
		{"rtc.external_ip_only", Tuning, "the default here: see `rtc.advertise_internal_ip`"},
		{"rtc.skip_external_ip_validation", Tuning, "the default here"},
		{"rtc.force_tcp", Tuning, "a client uses TCP where UDP does not pass"},
		{"rtc.enable_warp", Tuning, "connection set-up"},
		{"rtc.host_acceptance_min_wait", Tuning, "ICE"},
		{"rtc.srflx_acceptance_min_wait", Tuning, "ICE"},
		{"rtc.prflx_acceptance_min_wait", Tuning, "ICE"},
		{"rtc.relay_acceptance_min_wait", Tuning, "ICE"},
		{"rtc.sctp_min_cwnd", Tuning, "data channels"},
		{"rtc.sctp_fast_rtx_wnd", Tuning, "data channels"},
		{"rtc.sctp_cwnd_ca_step", Tuning, "data channels"},
		{"rtc.rtx_budget.*", Tuning, "retransmission"},
		{"rtc.tcp_fallback_rtt_threshold", Tuning, "fall-back to TCP"},
		{"rtc.allow_udp_unstable_fallback", Tuning, "fall-back to TCP"},
		{"rtc.reconnect_on_publication_error", Tuning, "reconnection"},
		{"rtc.reconnect_on_subscription_error", Tuning, "reconnection"},
		{"rtc.reconnect_on_data_channel_error", Tuning, "reconnection"},
		{"rtc.data_channel_max_buffered_amount", Tuning, "data channels"},
		{"rtc.forward_stats.*", Tuning, "statistics"},
		{"rtc.enable_rtp_stream_restart_detection", Tuning, "RTP"},
		{"rtc.congestion_control.*", Tuning, "bandwidth estimation, but for `allow_pause`"},
		{"agents.*", Tuning, "workers tell themselves when they take no more jobs"},
		{"audio.*", Tuning, "who counts as speaking: LiveKit's defaults; but for `max_forwarded`"},
		{"turn.bind_addresses", Tuning, "bound as media is, see `rtc.bind_addresses`"},
		{"turn.allow_restricted_peer_cidrs", Tuning, "relays reach this server's media wherever it is; see `turn.relay.allow` for others"},
		{"video.*", Tuning, "layers that nobody watches, stream tracking"},
		{"room.update_batch_target_size", Tuning, "participant updates"},
		{"room.participant_disconnect_timeout", Tuning, "ICE"},
		{"logging.sample", Tuning, "nothing is sampled"},
		{"logging.sample_initial", Tuning, "nothing is sampled"},
		{"logging.sample_interval", Tuning, "nothing is sampled"},
		{"logging.item_sample_seconds", Tuning, "nothing is sampled"},
		{"logging.item_sample_initial", Tuning, "nothing is sampled"},
		{"logging.item_sample_interval", Tuning, "nothing is sampled"},
		{"logging.component_levels", Tuning, "one level for all"},
		{"webhook.url_notifier.*", Tuning, "deliveries wait in the database"},
		{"webhook.resource_url_notifier.*", Tuning, "deliveries wait in the database"},
	}
}

// table finds keys by path.
type table struct {
	exact    map[string]Key
	subtrees []Key           // keys whose path ended in ".*", which is cut off
	sections map[string]bool // every path that is followed by a dot
}

func newTable() *table {
	t := &table{exact: map[string]Key{}, sections: map[string]bool{}}
	for _, k := range Keys() {
		for i, c := range k.Path {
			if c == '.' {
				t.sections[k.Path[:i]] = true
			}
		}
		if cut, ok := strings.CutSuffix(k.Path, ".*"); ok {
			k.Path = cut
			t.subtrees = append(t.subtrees, k)
			continue
		}
		t.exact[k.Path] = k
	}
	return t
}

// find returns the line for path: its own, or that of a subtree that contains it.
func (t *table) find(path string) (Key, bool) {
	if k, ok := t.exact[path]; ok {
		return k, true
	}
	for _, k := range t.subtrees {
		if path == k.Path || strings.HasPrefix(path, k.Path+".") {
			return k, true
		}
	}
	return Key{}, false
}

// nearest is the known path that is most similar to path; "" if none is similar.
func (t *table) nearest(path string) string {
	best, bestCost := "", max(3, len(path)/4)
	try := func(candidate string) {
		// The same name in another section counts as similar, whatever the section.
		cost := distance(path, candidate)
		if leaf(path) == leaf(candidate) {
			cost = min(cost, 2)
		}
		if cost < bestCost || (cost == bestCost && best != "" && candidate < best) {
			best, bestCost = candidate, cost
		}
	}
	for p := range t.exact {
		try(p)
	}
	for p := range t.sections {
		try(p)
	}
	return best
}

func leaf(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// distance is the number of bytes to insert, delete or replace to turn a into b
// (Levenshtein); a swap of neighbours counts as two.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
