package media

import (
	"sync/atomic"

	"parlor/media/downlink"
	"parlor/media/forward"
	"parlor/media/udp"
)

// counters count failures and refusals of the engine's peers since it began.
type counters struct {
	badOffers, badCandidates, needsReconnect   atomic.Uint64
	dataRefused, lossyDropped, reliableDropped atomic.Uint64
	slowReliable, dataHeldUp, lossyLate        atomic.Uint64
	reliableSlow                               atomic.Uint64
	subscriptionsFailed, channelFloods         atomic.Uint64
	joinFailures, timeouts                     atomic.Uint64
	unknownSections, streamFloods              atomic.Uint64
	ownTransports, iceRestarts                 atomic.Uint64
	badFeedback, excessFeedback                atomic.Uint64
	badSRTP, badSCTP, intakeOverflow           atomic.Uint64
}

// Stats are an engine's counts. A field counts since the engine began, unless its comment
// says "now".
type Stats struct {
	Peers       int   // now
	DataWaiting int64 // bytes of reliable data that wait for receivers now

	BadDescriptions, BadCandidates uint64 // of clients; refused
	NeedsReconnect                 uint64 // peers whose client had to reconnect
	DataRefused                    uint64 // messages of clients without permission to send data
	LossyDropped, ReliableDropped  uint64 // messages to clients
	LossyLate                      uint64 // as well, since those before them were not taken in time
	ReliableSlow                   uint64 // messages to clients that were slower than Config.SlowThreshold
	SlowReliable                   uint64 // clients that had to reconnect because they did not take their data
	DataHeldUp                     uint64 // times that a sender was made to wait for its receivers
	SubscriptionsFailed            uint64
	UnknownSections                uint64 // RTP streams of sections that no offer contained
	StreamFloods                   uint64 // clients that had to reconnect because they began too many RTP streams
	ChannelFloods                  uint64 // data channels refused because the client had opened too many
	JoinFailures, Timeouts         uint64 // clients that never connected; clients that vanished

	OwnTransports uint64 // descriptions and candidates of clients that named our own transports
	ICERestarts   uint64 // clients that had to reconnect because they restarted ICE too often
	BadFeedback   uint64 // transport-wide feedback that could not be read
	// ExcessFeedback counts packets of transport-wide feedback that were dropped because
	// the client sent too many.
	ExcessFeedback uint64
	BadSRTP        uint64 // packets of clients that were malformed or not authentic
	BadSCTP        uint64 // clients that had to reconnect because their SCTP asked too much or broke its rules

	TCPConns     int64  // ICE-TCP connections now
	TCPStrangers int64  // those that have not yet shown that they belong to a client, now
	TCPFailures  uint64 // failures to accept a connection, for example for want of file descriptors
	TCPRefused   uint64 // connections closed because there were too many, or because they belonged to no client in time
	TCPOverflow  uint64 // packets dropped because too much waited for their receiver
	TCPOverdue   uint64 // RTP packets dropped because they had waited too long for their receiver

	// UDP packets that were dropped: from addresses that no transport has authenticated,
	// from more addresses than a transport may have, of transports that did not read in
	// time, and from or to our own addresses.
	UDPUnknown, UDPSources, UDPOverflow, UDPOwn uint64

	Sockets []udp.Stats // one per UDP socket, and per port one for its closed sockets

	// Media received from publishers and sent to subscribers.
	Audio, Video struct{ Received, Sent forward.Traffic }

	Paths downlink.Paths // to subscribers
}

// Addresses are the addresses of the clients, by the SIDs of their participants.
func (e *Engine) Addresses() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make(map[string]string, len(e.peers))
	for p := range e.peers {
		all[p.cfg.SID] = p.cfg.Client.GetAddress()
	}
	return all
}

// Stats reads the counts one after the other, so they may be a moment apart.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	peers := len(e.peers)
	e.mu.Unlock()
	c := &e.counters
	s := Stats{
		Peers: peers, DataWaiting: e.waiting.Load() + e.early.Load(), DataHeldUp: c.dataHeldUp.Load(),
		BadDescriptions: c.badOffers.Load(), BadCandidates: c.badCandidates.Load(),
		NeedsReconnect: c.needsReconnect.Load(), DataRefused: c.dataRefused.Load(),
		LossyLate: c.lossyLate.Load(), LossyDropped: c.lossyDropped.Load(), ReliableDropped: c.reliableDropped.Load(),
		ReliableSlow: c.reliableSlow.Load(), SlowReliable: c.slowReliable.Load(), SubscriptionsFailed: c.subscriptionsFailed.Load(),
		UnknownSections: c.unknownSections.Load(), StreamFloods: c.streamFloods.Load(),
		ChannelFloods: c.channelFloods.Load(), JoinFailures: c.joinFailures.Load(), Timeouts: c.timeouts.Load(),
		OwnTransports: c.ownTransports.Load(), ICERestarts: c.iceRestarts.Load(), BadFeedback: c.badFeedback.Load(),
		ExcessFeedback: c.excessFeedback.Load(), BadSRTP: c.badSRTP.Load(), BadSCTP: c.badSCTP.Load(),
		TCPConns: e.net.tcpCounts.Open.Load(), TCPStrangers: e.net.tcpCounts.Strangers.Load(), TCPFailures: e.net.tcpCounts.Failures.Load(),
		TCPRefused: e.net.tcpCounts.Refused.Load(), TCPOverflow: e.net.tcpCounts.Overflow.Load(), TCPOverdue: e.net.tcpCounts.Overdue.Load(),
		UDPUnknown: e.net.muxed.Unknown.Load(), UDPSources: e.net.muxed.Sources.Load(),
		UDPOverflow: e.net.muxed.Overflow.Load() + c.intakeOverflow.Load(), UDPOwn: e.net.muxed.Own.Load(),
	}
	s.Audio.Received, s.Video.Received = e.totals.Received()
	s.Audio.Sent, s.Video.Sent = e.totals.Sent()
	s.Paths = e.paths.Paths()
	for _, sock := range e.net.sockets {
		for _, conn := range *sock.conns.Load() {
			s.Sockets = append(s.Sockets, conn.Stats())
		}
		if gone := *sock.gone.Load(); gone != (udp.Stats{}) {
			s.Sockets = append(s.Sockets, gone)
		}
	}
	return s
}
