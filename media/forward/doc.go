// Package forward is the packet path: from the packets of a publisher to those
// of its subscribers.
//
// The nouns:
//
//   - A [Track] is a published track.
//   - A [Layer] is one RTP stream of it: the only one, one of a simulcast, or
//     one that carries several spatial layers (SVC). It takes in packets, asks
//     for lost ones, remembers the last ones, and reports to the publisher.
//   - A [Forwarder] is one subscription: it picks a layer, renumbers what it
//     forwards, answers NACKs and reports to the subscriber.
//   - An [Output] is where a forwarder's packets go.
//   - A [Downlink] is what is known of the path to one subscriber. The forwarders to
//     that subscriber write over it.
//
// # Who owns what
//
// A layer's packets come from one goroutine, which collects those of a frame
// and then goes forwarder by forwarder, packet by packet. It takes no lock that
// tracks share, makes no allocation and reads the clock once a burst.
//
// What is due at a time is done by a timer of each track, which runs while anything
// happens to it.
//
// Locks are taken in this order: Track.turning (one turn of the timer at a time),
// Layer.fan (one packet or burst at a time) and dynacast.mu (what the publisher is told),
// Forwarder.mu (its numbering, and the order of its writes: it is held while its SSRCs
// are written to), Downlink.leaving (one burst at a time on a path), Layer.mu (reception and cache),
// Downlink.mu, and the leaves Track.mu, TWCC.mu. Downlink.division and Downlink.serving
// come before Forwarder.mu.
//
// An output's Write is called with Forwarder.mu and, over a downlink, Downlink.leaving
// held, which is taken once for the packets of a burst, so that those of a transport leave
// in the order of their numbers; Flush is called with Forwarder.mu held. The other
// callbacks are made with no lock but Track.turning and Layer.fan, which Track.Close and
// Layer.Close wait for: they must not wait for a track or a layer that is being closed.
//
// # What is dropped
//
// Whatever is malformed is counted ([LayerStats]) and dropped; nothing that
// comes from the network can panic or be logged per packet.
package forward
