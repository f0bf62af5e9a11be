// Package udp is the socket of the media: a UDP socket that pion's ICE mux can use, and
// that sends RTP in batches.
//
// The cost of sending a packet is not the system call but the packet's path through the
// kernel. A run of packets to one destination that is sent as one segmentation-offload
// message (UDP_SEGMENT) takes that path once. So RTP and RTCP (first byte 128 to 191, RFC
// 7983) are not sent when they are written, but collected and sent together. All other
// packets (STUN, DTLS, TURN) are sent at once.
//
// The nouns:
//
//   - A [Conn] is one port on one address. It is a [net.PacketConn] and pion's
//     ice.AddrPortReaderWriter.
//   - A queue is one of its sockets. The kernel gives each packet to one of them, by the two
//     addresses, so that several processors receive at once, and what one client sends is
//     read in order.
//   - A [Batch] is a batch of one goroutine. It takes no lock, and packets are built in it
//     in place.
//   - A shard is a batch that writers of a Conn share. A destination belongs to one
//     shard, by hash, and each shard has its own locks, so writers to different
//     destinations seldom contend.
//   - A run is consecutive packets of a batch to one destination that can be sent as one
//     message: all of the same size (the last may be shorter), at most 64 packets and 65000
//     bytes.
//
// Order: packets that one goroutine writes to one destination by the same means (the
// Conn's write methods, or one Batch) reach the kernel in the order written. This holds
// separately for RTP and RTCP and for all other packets. The order between the two means
// is undefined.
//
// Time: a batch is sent by [Conn.Flush], which its writer calls at the end, or when it is
// full, or by the backstop, which looks every few milliseconds for batches that have
// stopped growing.
//
// Wake-ups: a thread that wakes for a packet costs more than the packet. On Linux the runtime
// is told of arrivals alone (see quietSocket).
//
// If segmentation offload is refused for a destination, its packets are sent as plain
// messages by one sendmmsg, and the refusal is remembered. On systems without sendmmsg
// (other than Linux) they are sent one by one.
package udp
