// Package media carries the packets: it has the WebRTC transports, receives media and
// data over them, and forwards both.
//
// The nouns:
//
//   - An [Engine] has the sockets, and all that transports share: addresses, the
//     certificate, limits. There is one per process.
//   - A [Peer] is one participant's transports. It implements rooms.Peer.
//   - Signals is the interface by which a peer speaks to its client. Package media knows
//     no message of LiveKit's signalling.
//   - A transport is one peer connection. A peer has two: the client makes the offers of
//     the first, for the tracks that it publishes; we make the offers of the second, for
//     the tracks that it subscribes to. In single mode a peer has one, and the client
//     makes the offers.
//   - A section is one m-line of a peer connection, known by its mid.
//   - A publication is a track that the client announced. It gets its section when the
//     client offers the section. The room alone decides what the track is; the peer
//     reports its findings to the room.
//   - A subscription is a track that is forwarded to the client. It gets its section when
//     one is free.
//
// Ownership: a Peer has one goroutine, its loop, that owns negotiation, publications and
// subscriptions. A call on a peer posts to the loop and does not wait. Received packets
// do not pass through the loop: an ingress takes them on the transport's own reading
// goroutine and gives them straight to their layer (package media/forward). Data messages
// arrive on one goroutine per data channel, which may wait for the room.
//
// Pion is the control plane: SDP, ICE, DTLS, SCTP. No interceptors of pion run: package
// media/forward does NACK, RTCP reports, congestion feedback and keyframe requests.
package media
