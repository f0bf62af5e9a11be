package udp

import "sync/atomic"

// Stats are counts of a socket since it was opened.
type Stats struct {
	PacketsSent, BytesSent uint64
	// SendCalls is the number of system calls that sent packets.
	SendCalls uint64
	// OffloadMessages is how many messages of several packets were sent by segmentation
	// offload; OffloadPackets is the number of their packets.
	OffloadMessages, OffloadPackets uint64
	// OffloadRefused is how often the kernel refused offload for a destination and packet
	// size; those packets were sent plainly.
	OffloadRefused uint64

	PacketsReceived, BytesReceived uint64
	// ReceiveCalls is the number of system calls that returned packets.
	ReceiveCalls uint64

	Dropped Drops
}

// Drops are packets that were not sent, or not returned to readers, by reason.
type Drops struct {
	// Busy: the socket's send buffer, or a queue below it, stayed full.
	Busy uint64
	// Unreachable: no route, a firewall's refusal, or an address of a family that the
	// socket does not support.
	Unreachable uint64
	// TooLong: longer than the path allows, or, when received, longer than MaxPacket.
	TooLong uint64
	// Closed: the socket was closed before the batch was sent.
	Closed uint64
	// Other: any other error of the system.
	Other uint64
}

// counters are the running counts behind Stats. Sends update them once per system call.
type counters struct {
	packetsSent, bytesSent, sendCalls               atomic.Uint64
	offloadMessages, offloadPackets, offloadRefused atomic.Uint64
	busy, unreachable, tooLong, closed, other       atomic.Uint64
	_                                               [64]byte // a separate cache line for the reader
	packetsReceived, bytesReceived, receiveCalls    atomic.Uint64
}

// Stats takes no lock, so its numbers may be a moment apart.
func (c *Conn) Stats() Stats {
	n := &c.count
	return Stats{
		PacketsSent:     n.packetsSent.Load(),
		BytesSent:       n.bytesSent.Load(),
		SendCalls:       n.sendCalls.Load(),
		OffloadMessages: n.offloadMessages.Load(),
		OffloadPackets:  n.offloadPackets.Load(),
		OffloadRefused:  n.offloadRefused.Load(),
		PacketsReceived: n.packetsReceived.Load(),
		BytesReceived:   n.bytesReceived.Load(),
		ReceiveCalls:    n.receiveCalls.Load(),
		Dropped: Drops{
			Busy:        n.busy.Load(),
			Unreachable: n.unreachable.Load(),
			TooLong:     n.tooLong.Load(),
			Closed:      n.closed.Load(),
			Other:       n.other.Load(),
		},
	}
}

// Add is the sum of s and o.
func (s Stats) Add(o Stats) Stats {
	s.PacketsSent += o.PacketsSent
	s.BytesSent += o.BytesSent
	s.SendCalls += o.SendCalls
	s.OffloadMessages += o.OffloadMessages
	s.OffloadPackets += o.OffloadPackets
	s.OffloadRefused += o.OffloadRefused
	s.PacketsReceived += o.PacketsReceived
	s.BytesReceived += o.BytesReceived
	s.ReceiveCalls += o.ReceiveCalls
	s.Dropped.Busy += o.Dropped.Busy
	s.Dropped.Unreachable += o.Dropped.Unreachable
	s.Dropped.TooLong += o.Dropped.TooLong
	s.Dropped.Closed += o.Dropped.Closed
	s.Dropped.Other += o.Dropped.Other
	return s
}
