// Package turn is the server's own TURN server (RFC 8656), built on pion/turn. It is for
// clients whose network blocks the ports of media.
//
// The nouns:
//
//   - A [Server] is the TURN server. Its clients come over UDP, through sockets that other
//     parts of the program read ([Server.AddSocket], [Server.Take]), and over TCP or TLS,
//     through connections that other parts accept ([Server.ServeConn]).
//   - A [Session] is one participant's transports. Credentials name it, and its end ends all
//     of its relays: only participants of rooms have relays.
//   - A relay is an allocation: the address by which a client's peers know the client. The
//     peer is usually the server's own media. Packets between the two never leave the
//     process, and no socket is opened for such a relay. Its address is then of no network
//     (see virtualIPv4), so that it cannot be mistaken for another host's.
//   - A stream is a client's connection over TCP or TLS.
//
// Credentials have LiveKit's form: the user name is base62 of "key|session|expiry", the
// password is base62 of the SHA-256 of "secret|session|expiry". The expiry bounds when a
// relay may be made; an existing relay lives until its session ends.
//
// A client can reach the addresses and ports on which media is received, and those that
// [Config.Allow] names. All others are refused: by address when a permission is
// requested, and by port when a packet is sent.
package turn
