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
// # Kinds of rooms
//
//	go -C media/bench run . loads
//	go -C media/bench run . loads -only "video to 60,meeting" -rounds 5
//	go -C media/bench run . loads -against ws://127.0.0.1:7890 -pid 1234 -key devkey -secret secret
//
// loads prints what a forwarded packet costs in rooms as people have them: a camera in
// simulcast to 60 and to 200, ten speakers to an audience of 200, a meeting of ten, ten
// meetings of four; beside the floor, where there is one, and another LiveKit-compatible
// server, in turns. For each: packets a second, the server's CPU time for each, the share
// of it in user space, loss, the 99th percentile of the way from one client to another, the
// server's resident memory, the CPU time of a join (with what is forwarded meanwhile to
// those that are in), and the 95th percentile of the time from a join to its first packet,
// of those that find somebody there.
//
// # Joins
//
//	go -C media/bench run . joins
//	go -C media/bench run . joins -listeners 100 -rounds 5 -server before=/tmp/a -server after=/tmp/b
//
// joins prints what a join and a subscription cost: participants join at once a room in which
// one speaks, and when all hear it, others come who speak too. For each server: the CPU time of
// a join and of one of the later subscriptions, and the memory in use (heap and stacks, after a
// collection) for a listener with its first subscriptions, and for each further one. -cpuprofile
// writes what the CPU time of the joins goes to, of all servers and rounds together.
//
// # The compiler's profile
//
//	go -C media/bench run . profile
//
// profile lets the server forward the same kinds of rooms, and writes what its CPU time went
// to into parlor.pgo, beside this file, with which releases are compiled (go build -pgo). It
// keeps the innermost frames of the stacks that make up most of the time, and no paths.
//
// # Bad networks
//
//	go -C media/bench run . network
//	go -C media/bench run . network -short -only "5 % loss,steps"
//	go -C media/bench run . network -against ws://127.0.0.1:7890 devkey secret
//
// network prints what a subscriber gets behind a network that misbehaves: how soon what
// there is of bandwidth is used, how much of it, what stands still, what waits, what is
// lost. Publishers send frames that look like a camera's in simulcast, of sizes that do
// not depend on how busy the machine is; the network is package emulator, and the
// subscriber's receiver is package modelreceiver, which decodes nothing and knows what a
// browser could. -against runs the same against another LiveKit-compatible server, each
// scenario one after the other.
//
// It is a module of its own, so that what it needs is no requirement of the server.
package main
