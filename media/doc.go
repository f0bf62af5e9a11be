// Package media is the packets: WebRTC transports, what comes in over them and
// what is forwarded over them.
//
// The nouns:
//
//   - An [Engine] is the sockets, and what all transports share: addresses, the
//     certificate, limits. One per process.
//   - A [Peer] is one participant's transports. It implements rooms.Peer.
//   - Signals is how a peer speaks to its client, whatever signalling that has; no
//     message of LiveKit's signalling is known here.
//   - A transport is one peer connection: a peer has two (one that the client
//     offers, for what it publishes; one that we offer, for what it subscribes
//     to), or in single mode one, which the client offers.
//   - A section is one m-line of a peer connection, known by its mid.
//   - A publication is a track that the client announced; it meets its section
//     when the client offers it. What the track is, its room alone says; the peer
//     reports what it finds out of it.
//   - A subscription is a track that is forwarded to the client; it meets its
//     section when one is free.
//
// Who owns what: a Peer has one goroutine, its loop, that owns negotiation,
// publications and subscriptions; a caller that wants something of a peer posts to the
// loop and goes on. Received packets do not pass through the loop: an ingress
// takes them on the transport's own reading goroutine and gives them straight to
// their layer (package media/forward). Data messages arrive on one goroutine per
// data channel, which may wait for the room.
//
// Pion is the control plane: SDP, ICE, DTLS, SCTP. No interceptors run: NACK,
// reports, congestion feedback and keyframe requests are media/forward's.
package media
