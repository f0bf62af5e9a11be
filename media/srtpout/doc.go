// Package srtpout encrypts outgoing RTP itself and gives it straight to the media
// socket, past pion's per-packet path (session, ICE agent, mux), which costs as
// much as the kernel does.
//
// The nouns:
//
//   - A [Capture] listens to one transport's DTLS handshake and knows the keys that
//     it yields (RFC 5764). It uses pion's public hooks only, and works when we are
//     the DTLS server, which we make sure of where the client lets us.
//   - A [Sender] is one transport's outgoing SRTP (RFC 3711, RFC 7714).
//   - A [Stream] is one SSRC of it.
//
// # Who may write what
//
// With AES-GCM two packets under one nonce give the authentication key away, and
// the nonce is made of SSRC, rollover counter and sequence number. So:
//
//   - From the first packet that a Sender sends, pion's own write streams of that
//     transport must never carry RTP again: pion would begin with rollover counter
//     0 under the same key. All RTP, retransmissions and padding included, goes
//     through the Sender's Streams. SRTCP has keys of its own and stays pion's.
//   - A Sender remembers of every SSRC that it ever sent the last index at least, so
//     that an SSRC that is used again goes on where it ended ([Sender.Retire]).
//   - A Stream seals no index twice, except for the very same packet again, where
//     retransmissions share the media's SSRC ([Stream.AllowRepeats]).
//
// A Sender sends over UDP alone. What to do when ICE settles on TCP is the
// caller's choice, before the first packet: write with pion for the transport's
// whole life, or have the client connect again.
package srtpout
