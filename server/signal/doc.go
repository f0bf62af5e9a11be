// Package signal implements LiveKit's signalling over WebSocket. It translates between
// the wire and the domain, and makes no decisions.
//
//   - A [Handler] answers /rtc, /rtc/v1 and their validate routes.
//   - An outlet is the connection from a participant to its client. It outlives WebSockets:
//     a resume attaches a new WebSocket to it.
//   - A socket is one WebSocket with a bounded queue and one writer. The socket of a client
//     that reads too slowly is closed, and the client resumes.
//   - A session reads one socket, on the goroutine of its HTTP request. It passes the
//     messages to the participant, and SDP and ICE to the participant's media.
//   - A speaker sends the messages of a participant's media to the client.
package signal
