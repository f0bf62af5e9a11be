// Package estimate estimates the bandwidth of a path, in bits/s, from its receiver's
// reports.
//
// The nouns:
//
//   - An [Estimator] estimates one path. [SendSide] uses transport-wide feedback;
//     [Reported] uses the receiver's own estimate (REMB) and losses, for receivers without
//     such feedback; [ReceiveSide] is for the receiver itself, which tells the sender.
//   - A group is packets that were sent within a few milliseconds. A growing queue is found
//     by how the distances between groups change on the path, as in Google congestion
//     control (draft-ietf-rmcat-gcc-02): a line is fitted to them, and compared with a
//     threshold that adapts to the path.
//   - The queue is how much longer packets take than the fastest recent ones. It is measured
//     by the fastest of a few packets, so that jitter does not count as a queue.
//   - A step is when all packets take longer from one moment on. If the way stays as long, it is
//     the path that has become longer, and there is no queue.
//   - The acknowledged bitrate is that of the packets that arrived.
//   - The loss bound is the bitrate that explains the losses best, if the rest is lost at
//     random: losses that do not depend on the bitrate are not a sign of congestion.
//
// Other traffic, such as TCP, may fill the queue too. If the queue does not shrink when
// less is sent, losses control the bitrate, as they control TCP's, until the queue is gone.
//
// An application-limited sender sends less than it may. Then its estimate does not rise
// by itself, because nothing shows that there is more bandwidth. It does not fall either,
// unless a queue shows that even this little is too much. Bandwidth above the sent
// bitrate is found by probes ([SendSide.Probed]).
//
// Nothing here is safe for concurrent use, and nothing reads a clock: times are
// nanoseconds of any monotonic clock.
package estimate
