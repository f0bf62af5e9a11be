// Package icemux shares UDP sockets between the ICE agents of many transports. It
// is pion's ice.UDPMux, with other rules for whose packets are whose.
//
// The nouns:
//
//   - A [Mux] is one UDP port on one or more local addresses, each with a socket of
//     its own. Each socket has one goroutine that reads.
//   - A session is the packets of one ICE username fragment (ufrag, RFC 8445, 5.3)
//     on one socket.
//   - A source is a remote address that a session has heard from.
//   - The owner of a remote address is the session that its DTLS, RTP and RTCP go
//     to.
//
// The rules:
//
//   - A STUN request goes to the session whose ufrag its USERNAME names, wherever it
//     comes from. A STUN response goes to the session that sent the request.
//   - A session comes to own an address when its ICE agent answers a request from
//     there: agents answer only after they have checked MESSAGE-INTEGRITY. An address
//     that has an owner changes it only if the other session moreover got a response
//     from there to a request of its own, which shows that the address was not forged.
//     Writing to an address changes nothing.
//   - All else from an address without an owner is dropped, and counted.
//   - A session has a bounded number of sources, and a bounded queue.
//   - Nothing is taken from, or sent to, an address of the server's own.
package icemux
