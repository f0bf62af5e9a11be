// Package estimate judges how much a path carries, in bits/s, from what its
// receiver reports.
//
// The nouns:
//
//   - An [Estimator] is the judgement about one path. [SendSide] judges by
//     transport-wide feedback; [Reported] by the receiver's own estimate (REMB) and
//     by losses, where there is no better.
//   - A group is packets that left within a few milliseconds. The queue is judged by
//     how the groups' distances change on the way, as Google congestion control does
//     (draft-ietf-rmcat-gcc-02), with a line fitted to them and a threshold that
//     adapts to the path.
//   - The queue is how much longer packets need than they did at best lately. It is
//     taken from the fastest of a few packets, so that jitter is not taken for it.
//   - The acknowledged bitrate is what arrived.
//   - The loss bound is the bitrate that explains the losses best, if the rest is lost
//     at random: losses that do not depend on the bitrate are no sign of congestion.
//
// An application-limited sender sends less than it may. Its estimate does not rise by
// itself then, since nothing shows that there is more; it does not sink either, unless
// a queue shows that even that little is too much. What is known of the room above
// comes from probes ([SendSide.Probed]).
//
// Nothing here is safe for concurrent use, and nothing reads a clock: times are
// nanoseconds of any monotonic clock.
package estimate
