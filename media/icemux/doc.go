// Package icemux shares UDP sockets and TCP ports between the ICE agents of many
// transports. It is pion's ice.UDPMux and ice.TCPMux, with other rules for whose packets
// are whose.
//
// The nouns:
//
//   - A [Mux] is one UDP port on one or more local addresses, each with a socket of
//     its own. Each queue of a socket ([Queued]) has one goroutine that reads.
//   - A session is the packets of one ICE username fragment (ufrag, RFC 8445, 5.3)
//     on one socket, or, over TCP, at one local address.
//   - A source is a remote address that a session has heard from.
//   - The owner of a remote address is the session that its DTLS, RTP and RTCP go
//     to.
//   - A [Handler] takes RTP and RTCP out of a transport's sessions, past its agent.
//   - A former session is one of before a restart of ICE: its agent does not use it any
//     more, but the client may still send there.
//   - A [TCPMux] is one TCP port, to which clients connect (RFC 6544).
//   - A stranger is a connection that has not named a session yet; a member is one that
//     has, and is proven when the agent has answered it.
//
// The rules over UDP:
//
//   - A STUN request goes to the session whose ufrag its USERNAME names, wherever it
//     comes from. A STUN response goes to the session that sent the request, unless it
//     tells its agent nothing new ([Config.Assured]).
//   - A session comes to own an address when its ICE agent answers a request from
//     there: agents answer only after they have checked MESSAGE-INTEGRITY. An address
//     that has an owner changes it only if the other session moreover got a response
//     from there to a request of its own, which shows that the address was not forged.
//     Writing to an address changes nothing.
//   - A Binding request that names no session is answered with the address that it came
//     from, so that another machine can tell whether the port is reached; a bounded number
//     of them a second. An answer to a request of [Mux.Ask] goes there.
//   - All else from an address without an owner is dropped, and counted.
//   - A session has a bounded number of sources, and a bounded queue.
//   - When ICE restarts, the addresses that a transport's session owns stay its own, for RTP
//     and RTCP alone, until a pair is selected and a while longer, or the transport ends
//     ([Transport]). Nothing more is believed of STUN with the former credentials. An
//     address passes to the transport's next session with the first answer there.
//   - Nothing is taken from, or sent to, an address of the server's own.
//   - What is for the server's own TURN server goes there ([Config.TURN]). What a session
//     sends to an address that this server relays never leaves the process
//     ([Config.Relay]), nor does what comes from there ([Mux.Deliver]): what the network
//     brings from such an address is dropped ([Config.Relayed]).
//
// The rules over TCP:
//
//   - A connection is a stranger until its first packet, a STUN request, names a session
//     that there is. Strangers are few, in all and of each network, and have seconds; one
//     too many takes the place of the oldest. They never take a member's.
//   - A member that is not proven carries STUN alone, to either side, for a bounded time
//     and a bounded number of packets. One too many takes the place of another that is
//     not proven.
//   - Members are bounded, of each session and in all. One too many in all takes the place
//     of one of the session that has the most, or is refused where each has one.
//   - What a connection is does not outlast it: another one from the same address and port
//     begins as a stranger.
//   - The end of a connection, however it comes, ends no other and no session.
//   - When ICE restarts, the proven members of a transport's session go on, for RTP and RTCP
//     alone, as long as addresses do over UDP ([TCPTransport]).
//   - What waits for a receiver is bounded, and RTP moreover in age ([MaxTCPWait]); what is
//     beyond it is dropped, and counted, and its sender is told ([Media]).
package icemux
