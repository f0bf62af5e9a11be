// Package signal is LiveKit's signalling over WebSocket: it translates between
// the wire and the domain, and decides nothing.
//
//   - A [Handler] answers /rtc, /rtc/v1 and their validate routes.
//   - An outlet is a participant's way to its client. It outlives WebSockets: a
//     resume attaches a new one to it.
//   - A socket is one WebSocket with a bounded queue and one writer. A client
//     that does not read fast enough is cut off, and resumes.
//   - A session reads one socket, in the goroutine of its HTTP request, and hands
//     what it reads to the participant, and SDP and ICE to its media.
//   - A speaker says to the client what its media has to say.
package signal
