// Package srtpout encrypts outgoing RTP and gives it straight to the media socket. It
// bypasses pion's per-packet path (session, ICE agent, mux), which costs as much as the
// kernel's.
//
// The nouns:
//
//   - A [Capture] observes one transport's DTLS handshake and derives its keys (RFC 5764).
//     It uses only pion's public hooks, and works only if we are the DTLS server, which we
//     choose to be where the client allows it.
//   - A [Sender] is the outgoing SRTP and SRTCP of one transport (RFC 3711, RFC 7714).
//   - A [Stream] is one SSRC of a Sender.
//
// # Nonces
//
// With AES-GCM, two packets under one nonce give the authentication key away. The nonce
// consists of SSRC, rollover counter and sequence number. So:
//
//   - From the first packet of a Sender on, pion's own write streams of that transport must
//     not carry RTP again: pion would begin with rollover counter 0 under the same key. All
//     RTP, retransmissions and padding included, goes through the Sender's Streams.
//   - SRTCP has its own keys, and an index that the packet carries. What pion has sent before
//     there was a Sender has low indices, and the Sender's begin far beyond them. So all
//     RTCP goes through the Sender, too, once there is one.
//   - For every SSRC that it ever sent, a Sender remembers at least the last index, so that
//     an SSRC that is used again continues after it ([Sender.Retire]).
//   - A Stream seals no index twice, except for a repetition of the very same packet, where
//     retransmissions share the media's SSRC ([Stream.AllowRepeats]).
//
// A Sender sends wherever ICE leads, over UDP or TCP ([Socket]). If the keys are not known,
// the caller has to write with pion for the transport's whole life.
package srtpout
