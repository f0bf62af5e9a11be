package program

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parlor/media"
	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/media/turn"
	"parlor/media/udp"
	"parlor/rooms"
	"parlor/rooms/sqlite"
	"parlor/server/api"
	"parlor/server/door"
)

// partsCollector exports the figures of the parts that know nothing of Prometheus. They
// are read at each scrape.
type partsCollector struct {
	store   *sqlite.Store
	media   *media.Engine
	rooms   *rooms.Rooms
	replica api.Replica // nil = the database is not replicated
	// front and turn are the doors of the main port and of turn.tls_port; nil = there is none.
	front, turn *door.Door
}

// countBound is how long counting rooms may delay a scrape.
const countBound = 2 * time.Second

// Describe sends nothing: the collector is unchecked, and Collect describes its metrics.
func (c *partsCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *partsCollector) Collect(out chan<- prometheus.Metric) {
	emit := func(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
	}
	gauge := func(name, help string, v float64, labels ...string) {
		emit(prometheus.GaugeValue, name, help, v, labels...)
	}
	count := func(name, help string, v uint64, labels ...string) {
		emit(prometheus.CounterValue, name, help, float64(v), labels...)
	}
	c.collectStore(gauge, count)
	c.collectRooms(gauge, count)
	c.collectReplica(gauge, count)
	collectDoor("main", c.front, gauge, count)
	collectDoor("turn", c.turn, gauge, count)
	s := c.media.Stats()
	c.collectMedia(&s, gauge, count)
	collectPaths(&s.Paths, out)
	commit := c.store.Stats().Commit
	buckets := make(map[float64]uint64, len(commit.Bounds))
	for i, bound := range commit.Bounds {
		buckets[bound] = commit.Counts[i]
	}
	out <- prometheus.MustNewConstHistogram(prometheus.NewDesc("parlor_database_commit_seconds",
		"Time that transactions took, with the disk's part.", nil, nil), commit.Count, commit.Sum, buckets)
}

type (
	gaugeFunc func(name, help string, v float64, labels ...string)
	countFunc func(name, help string, v uint64, labels ...string)
)

func (c *partsCollector) collectStore(gauge gaugeFunc, count countFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), countBound)
	defer cancel()
	if open, ended, err := c.store.CountRooms(ctx); err == nil { // else the gauge of failures shows it
		const help = "Rooms in the database, by state."
		gauge("parlor_rooms", help, float64(open), "state", "open")
		gauge("parlor_rooms", help, float64(ended), "state", "ended")
	}
	s := c.store.Stats()
	failing := 0.0
	if s.Failing != "" {
		failing = 1
	}
	gauge("parlor_database_failing", "1 while the database cannot be written.", failing)
	gauge("parlor_database_damaged_rows", "Rows of which a part could not be read when they were last looked at.", float64(s.Damaged))
	gauge("parlor_database_queue", "Writes that wait for the database.", float64(s.Queue))
	gauge("parlor_database_wal_bytes", "Size of the write-ahead log.", float64(s.WALBytes))
	count("parlor_database_failures_total", "Transactions that failed.", s.Failures)
}

// overdueAfter is how long after its deadline an open room counts as overdue.
const overdueAfter = 5 * time.Second

func (c *partsCollector) collectRooms(gauge gaugeFunc, count countFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), countBound)
	defer cancel()
	now := time.Now()
	if n, err := c.store.CountDue(ctx, c.rooms.Now().Before(overdueAfter)); err == nil {
		gauge("parlor_rooms_overdue", "Open rooms whose deadline passed 5 s ago or earlier: anything but 0 is a fault.", float64(n))
	}
	if oldest, err := c.store.ListRooms(ctx, rooms.RoomQuery{Limit: 1}); err == nil {
		age := 0.0
		if len(oldest) > 0 {
			age = now.Sub(time.UnixMilli(oldest[0].CreatedMs)).Seconds()
		}
		gauge("parlor_rooms_oldest_seconds", "Age of the open room that is open longest; 0 if none is open.", age)
	}
	s := c.rooms.Stats()
	gauge("parlor_rooms_live", "Open rooms with something going on.", float64(s.Live))
	gauge("parlor_rooms_stuck", "Rooms that have done one thing for 10 s: anything but 0 is a fault.", float64(s.Stuck))
	gauge("parlor_participants", "Participants in rooms.", float64(s.Participants))
	count("parlor_room_failures_total", "Rooms whose goroutine panicked: their clients were sent away to come back.", s.Failures)
	count("parlor_data_refused_total", "Data packets of participants that named another sender, or were too long with their own.", s.DataRefused)
	const unread = "Packets of data tracks that nobody got, by why: malformed; unknown, their sender publishes nothing under their handle."
	count("parlor_data_track_refused_total", unread, s.DataTrackMalformed, "why", "malformed")
	count("parlor_data_track_refused_total", unread, s.DataTrackUnknown, "why", "unknown")
	const refused = "Requests to store or fetch a data blob that were refused, by why: off, by the configuration; invalid; limit; rate; missing; unwritten, the database failed."
	count("parlor_data_blob_refused_total", refused, s.DataBlobs.Off, "why", "off")
	count("parlor_data_blob_refused_total", refused, s.DataBlobs.Invalid, "why", "invalid")
	count("parlor_data_blob_refused_total", refused, s.DataBlobs.Limit, "why", "limit")
	count("parlor_data_blob_refused_total", refused, s.DataBlobs.Rate, "why", "rate")
	count("parlor_data_blob_refused_total", refused, s.DataBlobs.Missing, "why", "missing")
	count("parlor_data_blob_refused_total", refused, s.DataBlobs.Unwritten, "why", "unwritten")
	const unkept = "Chat messages that a room with keep_chat did not keep, by why: too_long; invalid; rate; unwritten, the database failed or did not keep up."
	count("parlor_chat_unkept_total", unkept, s.ChatUnkept.TooLong, "why", "too_long")
	count("parlor_chat_unkept_total", unkept, s.ChatUnkept.Invalid, "why", "invalid")
	count("parlor_chat_unkept_total", unkept, s.ChatUnkept.Rate, "why", "rate")
	count("parlor_chat_unkept_total", unkept, s.ChatUnkept.Unwritten, "why", "unwritten")
	gauge("parlor_participants_expected_back", "Participants of before the restart who are not back yet.", float64(s.ExpectedBack))
}

func (c *partsCollector) collectReplica(gauge gaugeFunc, count countFunc) {
	if c.replica == nil {
		return
	}
	s := c.replica.Status()
	held := 0.0
	if s.State == api.LeaseHeld {
		held = 1
	}
	gauge("parlor_replica_lease_held", "1 while this server holds the lease on the replica.", held)
	gauge("parlor_replica_epoch", "Grows with each lease on the replica.", float64(s.Epoch))
	gauge("parlor_replica_lag_seconds", "Age of the oldest write that the replica does not have; 0 if it has all.", s.LagSeconds)
	for _, stage := range s.Stages {
		failing := 0.0
		if stage.LastError != "" {
			failing = 1
		}
		gauge("parlor_replica_failing", "1 while this stage of a write's way to the replica fails.", failing, "stage", stage.Stage)
		count("parlor_replica_failures_total", "Failures on the way to the replica, by stage.", stage.Failures, "stage", stage.Stage)
	}
	count("parlor_replica_generations_total", "Generations that began because the last one could not go on.", s.Generations)
}

// collectDoor exports a door's figures; without a door they are 0.
func collectDoor(name string, d *door.Door, gauge gaugeFunc, count countFunc) {
	s := &door.Counters{}
	if d != nil {
		s = d.Counters()
	}
	gauge("parlor_door_callers", "TCP connections of which it is not known yet what they are for.", float64(s.Callers.Load()), "door", name)
	const guests = "TCP connections by what they are for: http; turn; ice."
	const turnedAway = "TCP connections that were turned away before it was known what they are for, by why: crowd, another took their place; " +
		"late, they took too long; unknown, they began like nothing that is served there; tls, its handshake failed; " +
		"unnamed, no proxy that may do so named their client."
	for kind, n := range map[string]uint64{"http": s.HTTP.Load(), "turn": s.TURN.Load(), "ice": s.ICE.Load()} {
		count("parlor_door_connections_total", guests, n, "door", name, "kind", kind)
	}
	for why, n := range map[string]uint64{
		"crowd": s.Crowd.Load(), "late": s.Late.Load(), "unknown": s.Unknown.Load(), "tls": s.TLS.Load(), "unnamed": s.Unnamed.Load(),
	} {
		count("parlor_door_refused_total", turnedAway, n, "door", name, "why", why)
	}
	count("parlor_door_accept_failures_total", "Times that no connection could be accepted, such as for want of file descriptors.", s.Failures.Load(), "door", name)
}

// writerStatus are the figures of the database's writer for GET /v1/status.
func writerStatus(s sqlite.Stats) api.Writer {
	w := api.Writer{
		Failing: s.Failing, Queue: s.Queue, Commits: s.Commit.Count, Failures: s.Failures,
		P50Ms: quantile(&s.Commit, 0.5), P99Ms: quantile(&s.Commit, 0.99), WALBytes: s.WALBytes, Damaged: s.Damaged, SyncError: s.Syncing,
	}
	if s.Commit.Count > 0 {
		w.MeanMs = 1000 * s.Commit.Sum / float64(s.Commit.Count)
	}
	return w
}

// quantile is the least bound, in milliseconds, that covers the share q of the
// observations; the greatest bound if none does.
func quantile(h *sqlite.Histogram, q float64) float64 {
	if h.Count == 0 {
		return 0
	}
	for i, n := range h.Counts {
		if float64(n) >= q*float64(h.Count) {
			return 1000 * h.Bounds[i]
		}
	}
	return 1000 * h.Bounds[len(h.Bounds)-1]
}

// collectTraffic exports the traffic of tracks, without a label for rooms, because there
// may be any number of those.
func (c *partsCollector) collectTraffic(s *media.Stats, count countFunc) {
	tell := func(kind, direction string, t *forward.Traffic) {
		labels := []string{"kind", kind, "direction", direction}
		count("parlor_media_packets_total", "RTP packets from publishers (in) and to subscribers (out), repeats included.", t.Packets, labels...)
		count("parlor_media_bytes_total", "Bytes of those packets; out without header extensions.", t.Bytes, labels...)
		count("parlor_media_packets_lost_total", "RTP packets that did not arrive; out, as subscribers report it.", t.Lost, labels...)
		count("parlor_media_nacks_total", "RTP packets that the receiver asked for again: we of publishers (in), subscribers of us (out).", t.NACKs, labels...)
		count("parlor_media_key_frame_requests_total", "Key frames asked for: of publishers (in), by subscribers (out).", t.KeyRequests, labels...)
		if direction == "out" {
			count("parlor_media_packets_repeated_total", "RTP packets sent again to subscribers.", t.Repeats, "kind", kind)
			count("parlor_media_packets_overdue_total", "RTP packets to subscribers dropped since they waited too long for their turn.", t.Overdue, "kind", kind)
			if kind == "video" {
				count("parlor_media_layer_switches_total", "Changes of the layer that a subscriber is sent.", t.Switches)
				count("parlor_media_pauses_total", "Videos paused for a subscriber for want of bandwidth.", t.Pauses)
			}
		}
	}
	tell("audio", "in", &s.Audio.Received)
	tell("audio", "out", &s.Audio.Sent)
	tell("video", "in", &s.Video.Received)
	tell("video", "out", &s.Video.Sent)
}

// collectPaths exports figures on the paths to subscribers.
func collectPaths(p *downlink.Paths, out chan<- prometheus.Metric) {
	tell := func(name, help string, h *downlink.Histogram) {
		buckets := make(map[float64]uint64, len(h.Bounds))
		for i, bound := range h.Bounds {
			buckets[bound] = h.Counts[i]
		}
		out <- prometheus.MustNewConstHistogram(prometheus.NewDesc(name, help, nil, nil), h.Count, h.Sum, buckets)
	}
	tell("parlor_media_round_trip_seconds", "Round trip to subscribers, of each about once a second.", &p.RTT)
	tell("parlor_media_queue_seconds", "How long packets to subscribers waited on the way, of each about once a second.", &p.Queue)
	tell("parlor_media_loss_ratio", "Share of packets to subscribers that were lost in the last seconds, of each about once a second.", &p.Loss)
}

// collectTURN exports the TURN server's figures; without a TURN server they are 0.
func (c *partsCollector) collectTURN(gauge gaugeFunc, count countFunc) {
	s := c.media.TURN()
	if s == nil {
		s = &turn.Counters{}
	}
	gauge("parlor_turn_allocations", "Relays of the TURN server.", float64(s.Relays.Load()))
	gauge("parlor_turn_connections", "Connections of the TURN server's clients over TCP and TLS.", float64(s.Streams.Load()))
	count("parlor_turn_allocations_total", "Relays made.", s.Made.Load())
	const refused = "What TURN clients were refused, by why: credentials, that are not right; expired, those too old for a new relay; " +
		"session, those of a participant that is not there; quota-participant, quota-address and quota, for bounds of relays; " +
		"peer, permissions for and packets to where no relay may lead; connection, those that made no relay in time or were too many."
	for why, n := range map[string]uint64{
		"credentials": s.Credentials.Load(), "expired": s.Expired.Load(), "session": s.Session.Load(),
		"quota-participant": s.SessionQuota.Load(), "quota-address": s.NetworkQuota.Load(), "quota": s.Quota.Load(),
		"peer": s.Peers.Load(), "connection": s.StreamsRefused.Load(),
	} {
		count("parlor_turn_refused_total", refused, n, "why", why)
	}
	const relayed = "Bytes relayed, to where: media, this server's own; clients, from there; peers, others; peer-clients, from those."
	count("parlor_turn_relayed_bytes_total", relayed, s.ToMedia.Load(), "to", "media")
	count("parlor_turn_relayed_bytes_total", relayed, s.ToClients.Load(), "to", "clients")
	count("parlor_turn_relayed_bytes_total", relayed, s.OutsideOut.Load(), "to", "peers")
	count("parlor_turn_relayed_bytes_total", relayed, s.OutsideIn.Load(), "to", "peer-clients")
	count("parlor_turn_overflow_total", "Packets dropped, since too many waited for a client or for the TURN server.", s.Overflow.Load())
}

// collectSockets counts what the UDP sockets do, whose batches are what makes a packet cheap:
// packets by calls are the sizes of the batches.
func collectSockets(sockets []udp.Stats, count countFunc) {
	var all udp.Stats
	for _, s := range sockets {
		all = all.Add(s)
	}
	const packets, calls = "UDP packets of all kinds on the media ports.", "System calls that received or sent UDP packets on the media ports."
	count("parlor_media_udp_packets_total", packets, all.PacketsReceived, "direction", "in")
	count("parlor_media_udp_packets_total", packets, all.PacketsSent, "direction", "out")
	count("parlor_media_udp_calls_total", calls, all.ReceiveCalls, "direction", "in")
	count("parlor_media_udp_calls_total", calls, all.SendCalls, "direction", "out")
	count("parlor_media_udp_offload_packets_total", "UDP packets that left in a message of several, by segmentation offload.", all.OffloadPackets)
	count("parlor_media_udp_offload_messages_total", "Messages of several UDP packets, by segmentation offload.", all.OffloadMessages)
	count("parlor_media_udp_offload_refused_total", "Messages of several UDP packets that the system refused; they were sent one by one.", all.OffloadRefused)
	const dropped = "UDP packets that could not be sent, by why: busy, the socket's buffer or a queue below it stayed full; unreachable, no route or " +
		"a firewall; too-long, longer than the path allows, or than is read; closed, the socket was; other."
	count("parlor_media_udp_dropped_total", dropped, all.Dropped.Busy, "why", "busy")
	count("parlor_media_udp_dropped_total", dropped, all.Dropped.Unreachable, "why", "unreachable")
	count("parlor_media_udp_dropped_total", dropped, all.Dropped.TooLong, "why", "too-long")
	count("parlor_media_udp_dropped_total", dropped, all.Dropped.Closed, "why", "closed")
	count("parlor_media_udp_dropped_total", dropped, all.Dropped.Other, "why", "other")
}

func (c *partsCollector) collectMedia(s *media.Stats, gauge gaugeFunc, count countFunc) {
	c.collectTraffic(s, count)
	collectSockets(s.Sockets, count)
	c.collectTURN(gauge, count)
	gauge("parlor_media_peers", "Participants with media transports.", float64(s.Peers))
	gauge("parlor_media_tcp_connections", "ICE-TCP connections.", float64(s.TCPConns))
	gauge("parlor_media_tcp_strangers", "ICE-TCP connections that have not named a transport yet.", float64(s.TCPStrangers))
	const refused = "Input of clients that was refused, by kind."
	count("parlor_media_refused_total", refused, s.BadDescriptions, "kind", "sdp")
	count("parlor_media_refused_total", refused, s.BadCandidates, "kind", "candidate")
	count("parlor_media_refused_total", refused, s.DataRefused, "kind", "data")
	count("parlor_media_refused_total", refused, s.UnknownSections, "kind", "rtp")
	count("parlor_media_refused_total", refused, s.StreamFloods, "kind", "streams")
	count("parlor_media_refused_total", refused, s.ChannelFloods, "kind", "channels")
	count("parlor_media_refused_total", refused, s.OwnTransports, "kind", "own-transport")
	count("parlor_media_refused_total", refused, s.ICERestarts, "kind", "ice-restarts")
	count("parlor_media_refused_total", refused, s.BadFeedback, "kind", "feedback")
	count("parlor_media_refused_total", refused, s.ExcessFeedback, "kind", "feedback-flood")
	count("parlor_media_refused_total", refused, s.BadSRTP, "kind", "srtp")
	count("parlor_media_refused_total", refused, s.BadSCTP, "kind", "sctp")
	count("parlor_media_refused_total", refused, s.TCPRefused, "kind", "tcp-connections")
	count("parlor_media_tcp_overflow_total", "Packets not sent over ICE-TCP, since too much waited for their receiver.", s.TCPOverflow)
	count("parlor_media_tcp_overdue_total", "Media packets not sent over ICE-TCP, since they or those before them had waited too long for their receiver.", s.TCPOverdue)
	count("parlor_media_tcp_accept_failures_total", "Times that no ICE-TCP connection could be accepted, such as for want of file descriptors.", s.TCPFailures)
	const strays = "UDP packets on the media ports that were not passed on, by why: unknown, from an address that no transport " +
		"has authenticated; sources, from more addresses than a transport may have; overflow, of a transport that did not " +
		"read in time; own, from or to an address of the server's own."
	count("parlor_media_udp_refused_total", strays, s.UDPUnknown, "why", "unknown")
	count("parlor_media_udp_refused_total", strays, s.UDPSources, "why", "sources")
	count("parlor_media_udp_refused_total", strays, s.UDPOverflow, "why", "overflow")
	count("parlor_media_udp_refused_total", strays, s.UDPOwn, "why", "own")
	const lost = "Clients given up, by why: join, they never connected; timeout, they vanished."
	count("parlor_media_lost_total", lost, s.JoinFailures, "why", "join")
	count("parlor_media_lost_total", lost, s.Timeouts, "why", "timeout")
	const dropped = "Data messages that a client did not take in time, by kind."
	count("parlor_media_data_dropped_total", dropped, s.LossyDropped, "kind", "lossy")
	count("parlor_media_data_dropped_total", dropped, s.LossyLate, "kind", "lossy-late")
	count("parlor_media_data_dropped_total", dropped, s.ReliableDropped, "kind", "reliable")
	count("parlor_media_data_dropped_total", dropped, s.ReliableSlow, "kind", "reliable-slow")
	gauge("parlor_media_data_waiting_bytes", "Reliable data that waits for receivers.", float64(s.DataWaiting))
	count("parlor_media_data_held_up_total", "Times that a sender of reliable data was made to wait for its receivers.", s.DataHeldUp)
	count("parlor_media_slow_clients_total", "Clients cut off for not taking their reliable data.", s.SlowReliable)
	count("parlor_media_reconnects_total", "Clients that were told to start again.", s.NeedsReconnect)
	count("parlor_media_subscriptions_failed_total", "Tracks that could not be forwarded to a client.", s.SubscriptionsFailed)
}
