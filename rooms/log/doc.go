// Package log is the event log: what has happened in rooms, in order, and what is
// on its way to those who are told.
//
// The nouns:
//
//   - An [Event] is one line of the log: written in the transaction of the change
//     that it tells of. [Types] is the table of what events there are.
//   - An [Endpoint] is a receiver of webhooks; a [Delivery] is an event on its way
//     to one endpoint, written in the event's transaction. The [Outbox] is the store
//     as the sender of deliveries sees it.
//   - A [Reader] pulls the log, in pages or as a stream; a [Cursor] is how far a
//     reader got. [Retention] forgets what is old.
//   - A [Reply] is what a request was answered, for its retry.
//
// The package knows nothing of rooms but their names and ids, so that those who tell
// of events need know no more either: webhooks and the server's event log import it
// and not the domain. It has no goroutine but those of its callers, and keeps
// nothing: the store does.
package log
