// Package downlink is the path to one subscriber: how its packets leave, its bandwidth,
// which layers of the subscriber's tracks are forwarded over it, and when packets leave.
//
// The nouns:
//
//   - A [Path] is the path to one subscriber, shared by the streams to it. It owns all of the
//     following.
//   - A [Stream] is one subscription, as its path sees it. A [Voice] is an audio stream that
//     may be held back because others are louder. Package forward implements both.
//   - A [Burst] is the packets that one stream writes at a time. A [Writer] encrypts them and
//     gives them to the socket: by our own SRTP streams, or by pion.
//   - A [Way] is the socket and the remote address that ICE has selected, and the client's
//     network.
//   - A [Control] is the congestion control of a path. It combines the parts below.
//   - A record (package sent) assigns transport-wide numbers and remembers the sent packets;
//     a report (package feedback) is the receiver's report on them.
//   - An estimator (package estimate) estimates the bandwidth of the path.
//   - A probe (package probe) finds out whether more fits, before more is sent.
//   - The pacer (package pacer) decides which packet leaves now.
//   - The allocator (package allocate) divides the estimate among the tracks.
//
// A Path has locks, a timer and a clock, and no goroutine. Package forward documents the
// order of its locks. The parts below it have none of these: their times are nanoseconds
// of any monotonic clock that begins well before the first call.
//
// # Wiring
//
// A Path has one Control under one lock, and one timer, which is set to When.
//
//   - For a packet to forward: call Offer. Send: Leave returns its transport-wide number,
//     which is written into its header, and the packet is written. Queued: it is kept (with
//     its reference-counted buffer) until Next returns it. Drop: it is released, and NACKs for
//     it are not answered. DropAndAsk: a keyframe of its stream is requested too. Leave is
//     called in the order in which packets are written, so the number is assigned when a
//     packet leaves, and not when it is offered.
//   - After that, and when the timer fires: call Next until it returns Nothing. Then, while
//     Probe returns bytes, send a retransmission of a recent packet or padding, of at most
//     the returned size, and record it by Leave as sent.Padding. Then set the timer to When.
//   - For transport-wide feedback: call Feedback, and Divide at once if it says so. For
//     receiver reports: Report. For a REMB: Estimated.
//   - Each 100 ms while Tight says that something is held back, and otherwise each second,
//     while packets are sent, and when a track, its layers, its size on the screen or its
//     speaker changes: call Divide with the measured bitrate of each layer. If the chosen
//     layer needs a keyframe, request it. Until it comes, and if the layer is a lower one,
//     forward only the lowest temporal layer of the former one.
//   - Before the first packet of a track that begins again (its publisher unmutes it or sends
//     more of it, or the subscriber shows it again): call Resume and Divide.
//   - When packets leave on another way: call Moved between two packets, then Divide.
//   - Tell the client which tracks are paused or resumed: see allocate.Paused.
//
// Offer and Leave allocate nothing: where there is room, Offer returns Send, and a burst
// is not split.
package downlink
