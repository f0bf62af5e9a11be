// Package turn is the server's own TURN server (RFC 8656), on pion/turn: for clients whose
// network lets nothing through to the ports of media.
//
// The nouns:
//
//   - A [Server] is the TURN server. Its clients come over UDP, through sockets that
//     others read ([Server.AddSocket], [Server.Take]), and over TCP or TLS, through
//     connections that others accept ([Server.ServeConn]).
//   - A [Session] is one participant's transports. Credentials name it, and with it end
//     all of its relays: nobody relays who is in no room.
//   - A relay is an allocation: the address by which a client's peers know it. The
//     peer is as a rule the server's own media, and what passes between the two never
//     leaves the process: no socket is opened for it. Its address is then of no network
//     (see virtualIPv4), so that nobody else can be meant by it.
//   - A stream is a client's connection over TCP or TLS.
//
// Credentials are LiveKit's: the user name is base62 of "key|session|expiry", the password
// base62 of the SHA-256 of "secret|session|expiry". The expiry bounds when a relay may be
// made; one that is there lives until its session ends.
//
// What a client can reach: the addresses and ports on which media is received, and what
// [Config.Allow] names. All else is refused, by address when a permission is asked for, and
// by port when a packet is sent.
package turn
