// Package forward is the packet path from a publisher to its subscribers.
//
// The nouns:
//
//   - A [Track] is a published track.
//   - A [Layer] is one RTP stream of a track: its only stream, one of a simulcast, or one
//     that carries several spatial layers (SVC). It receives packets, asks for lost ones,
//     remembers the last ones, and reports to the publisher.
//   - A [Forwarder] is one subscription: it chooses a layer, renumbers the packets that it
//     forwards, answers NACKs, and sends reports to the subscriber.
//   - An [Output] takes a forwarder's packets.
//   - A downlink ([downlink.Path]) is the path to one subscriber, as far as known. All
//     forwarders to that subscriber share it.
//
// # Goroutines and locks
//
// A layer's packets come from one goroutine, which collects those of a frame and then
// forwards them: forwarder by forwarder, and for each packet by packet. It takes no lock
// that tracks share, allocates nothing, and reads the clock once per burst.
//
// Each track has a timer for its periodic work. The timer runs only while the track is in
// use.
//
// Locks are taken in this order: Track.turning (one run of the timer at a time),
// Layer.fan (one packet or burst at a time) and dynacast.mu (what the publisher was
// told), Forwarder.mu (its numbering and the order of its writes; it is held while the
// forwarder writes), Path.leaving (one burst at a time on a path), Layer.mu
// (reception and cache), Path.mu, and then Track.mu, TWCC.mu and REMB.mu, under which no
// lock is taken. Path.division, Path.serving and the lock of a path's voices come
// before Forwarder.mu.
//
// An output's Write is called with Forwarder.mu held. Over a downlink, Path.leaving
// is held too: it is taken once for the packets of a burst, so that the packets of a
// transport leave in the order of their numbers. Flush is called with Forwarder.mu held.
// The other callbacks are made with no lock but Track.turning and Layer.fan. Track.Close
// and Layer.Close wait for these two, so a callback must not wait for a track or a layer
// that is being closed.
//
// # What is dropped
//
// Malformed packets are counted ([LayerStats]) and dropped. No packet from the network
// may cause a panic, or a line in the log.
package forward
