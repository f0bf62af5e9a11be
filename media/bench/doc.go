// Command bench measures what a forwarded packet costs: the CPU time of the server
// process per RTP packet that it forwards, beside the same figure of programs
// that do no more than must be done (the floor), in the same run and in turns,
// because a shared machine's figures are only comparable with their neighbours.
//
//	go -C media/bench run .
//	go -C media/bench run . -subs 4 -rounds 5 -window 8s
//
// It builds and starts the server, joins one publisher and a number of
// subscribers over LiveKit's signalling with real WebRTC, and lets the publisher
// send frames of video while it looks at the process's user and system time. The
// floor programs send packets of the same number and size to as many sockets:
//
//   - plain seals each packet with AES-GCM and sends it with a system call.
//   - offload seals it in place and sends a frame to all with segmentation
//     offload, as package udp does, and does nothing else.
//
// All is on the loopback interface, which charges the receiver's part of the
// kernel's work to the sender; a network card would not. -server and -url measure
// other builds and other LiveKit servers.
//
// It is a module of its own, so that what it needs is no requirement of the server.
package main
