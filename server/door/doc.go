// Package door accepts TCP connections and tells by their first bytes which part of the
// server they are for. So one port serves what would else take several, and a firewall
// that opens nothing but 443 is enough for a call.
//
// The nouns:
//
//   - A [Door] holds the listeners of one port, and a way to a part for each kind of
//     guest.
//   - A caller is a connection whose kind is not known yet. Callers are bounded in
//     number, in all and for each network, and in time, so that a silent or slow caller
//     does not hold a place for long.
//   - A guest is a connection whose kind is known: HTTP, ICE over TCP (RFC 6544) or TURN
//     (RFC 8656).
//
// How a caller's kind is told:
//
//   - A letter begins HTTP.
//   - STUN (RFC 8489) begins TURN; STUN with its length before it (RFC 4571) begins ICE.
//   - A TLS handshake names an application protocol (ALPN, RFC 7301; stun.turn is TURN's,
//     RFC 7443) and a server (SNI). By these HTTP and TURN are told apart before
//     decryption. Browsers name no protocol for TURN: then the door speaks TLS itself, and
//     looks at the first decrypted bytes.
//
// A door for proxies alone first reads a header of the PROXY protocol from each connection,
// which names the client. The part that gets a connection reads it from its first byte, or
// from the first after that header.
package door
