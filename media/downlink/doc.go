// Package downlink is all that is known of the path to one subscriber: by what way its
// packets leave, how much it carries, what of a subscriber's tracks is forwarded over it,
// and when packets leave.
//
// The nouns:
//
//   - A [Path] is the path to one subscriber, which the streams to it share. It owns all
//     of what follows.
//   - A [Stream] is one subscription as its path knows it, and a [Voice] one of sound that
//     may be held back since others are louder. Package forward implements both.
//   - A [Burst] is what one stream writes at a time, and a [Writer] encrypts it and gives
//     it to the socket: by our own SRTP streams, or by pion.
//   - A [Way] is where ICE leads.
//   - A [Control] is the congestion control of a path. It puts the others together.
//   - A record (package sent) gives out transport-wide numbers and remembers what was
//     sent; a report (package feedback) is what the receiver tells of it.
//   - An estimator (package estimate) judges what the path carries.
//   - A probe (package probe) finds out whether more fits, before more is sent.
//   - The pacer (package pacer) says which packet leaves now.
//   - The allocator (package allocate) divides the estimate among the tracks.
//
// A Path has locks, a timer and a clock, and no goroutine; its locks stand in package
// forward's order. All below it has none of these: times are nanoseconds of any monotonic
// clock that begins well before the first call.
//
// # Wiring
//
// A Path has one Control under one lock, and one timer, set by When.
//
//   - A packet to forward: Offer. Send: Leave gives its transport-wide number, which is
//     written into its header, and the packet is written. Queued: it is held (with its
//     reference counted buffer) until Next gives it back. Drop: it is released, and a
//     repeat of it that is asked for is not answered. DropAndAsk: also a key frame of its
//     stream is asked for. Leave is called in the order in which packets are written, so
//     the number is given out when a packet leaves, not when it is offered.
//   - After that, and when the timer fires: Next until it says Nothing; then, while Probe
//     names bytes, a repeat of a recent packet or padding of at most the size it names,
//     noted with Leave as sent.Padding; then the timer is set to When.
//   - Transport-wide feedback: Feedback, and Divide at once if it says so. Receiver
//     reports: Report. REMB: Estimated.
//   - Each 100 ms while something is sent, and when a track, its layers, its size on the
//     screen or its speaker changes: Divide, with the bitrate of each layer as measured.
//     A layer that takes a key frame is asked for; until it comes, and if it is a lower
//     one, only the lowest temporal layer of the one before is forwarded.
//   - What is paused or resumed is told to the client: see allocate.Paused.
//
// The zero-allocation path is Offer and Leave: where there is room Offer says Send, and
// a burst leaves whole.
package downlink
