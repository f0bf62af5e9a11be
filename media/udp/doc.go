// Package udp is the socket under the media: a UDP socket that pion's ICE mux
// takes for its own, and that sends RTP in batches.
//
// What costs in sending a packet is not the system call but the way of each
// packet through the kernel; a run of packets to one destination that leaves as
// one segmentation-offload message (UDP_SEGMENT) goes that way once. So RTP and
// RTCP (first byte 128 to 191, RFC 7983) are not sent when written, they are
// collected and leave together. Everything else (STUN, DTLS, TURN) leaves at
// once.
//
// The nouns:
//
//   - A [Conn] is one socket. It is a [net.PacketConn] and pion's
//     ice.AddrPortReaderWriter.
//   - A [Batch] is a batch in the making that belongs to one goroutine and takes
//     no lock; packets are built in place.
//   - A shard is a batch in the making that all writers of a Conn share: a
//     destination belongs to one shard, by hash, and each shard has its own
//     locks, so writers to different destinations seldom meet.
//   - A run is consecutive packets of a batch to one destination that can leave
//     as one message: all of one size, the last may be shorter, at most 64 and
//     65000 bytes.
//
// Order: packets that one goroutine writes to one destination through the same
// door (the Conn's write methods, or one Batch) arrive at the kernel in the order
// written, RTP and RTCP on one side and the rest on the other. Nothing is said of
// the order between the two doors.
//
// Time: a batch leaves with [Conn.Flush], which its writer calls at the end, or when
// it is full, or by the backstop, which looks once a millisecond for batches that
// have ceased to grow.
//
// Where segmentation offload is refused for a destination, its packets leave as
// one sendmmsg of plain messages, which is remembered; where there is no sendmmsg
// (other systems than Linux) they leave one by one.
package udp
