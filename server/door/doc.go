// Package door accepts TCP connections and tells by their first bytes which part they are
// for, so that one port serves what would else take several: a firewall that lets nothing
// but 443 through is enough for a call.
//
// The nouns:
//
//   - A [Door] is the listeners of one port, and a way in for each kind of guest.
//   - A caller is a connection that has not said yet what it is. Callers are few, in all and
//     of each network, and have seconds: one that says nothing, or drop by drop, takes
//     nobody's place for long.
//   - A guest is one that has said it: HTTP, ICE over TCP (RFC 6544) or TURN (RFC 8656).
//
// How a caller is told:
//
//   - A letter begins HTTP, for which the door has no further use.
//   - STUN (RFC 8489) begins TURN, and STUN with its length before it (RFC 4571) ICE.
//   - A TLS handshake names an application protocol (ALPN, RFC 7301; stun.turn is TURN's, RFC
//     7443) and a server (SNI): by these HTTP and TURN are told before a byte is decrypted.
//     Browsers name none for TURN: then the door speaks TLS itself, and looks at what comes
//     first.
//
// The part that is handed a connection still reads what the door has read of it.
package door
