// Package log is the event log: what has happened in rooms, in order, and its deliveries
// to webhooks and readers.
//
// The nouns:
//
//   - An [Event] is one entry of the log. It is written in the transaction of the change
//     that it tells of. [Types] is the table of event types.
//   - An [Endpoint] is a receiver of webhooks; a [Delivery] is an event on its way
//     to one endpoint, written in the event's transaction. The [Outbox] is the store
//     as the sender of deliveries sees it.
//   - A [Reader] pulls the log, in pages or as a stream; a [Cursor] is a reader's place
//     in it. [Retention] deletes old events.
//   - A [Reply] is the stored answer to a request, for its retry.
//
// The package knows only the names and ids of rooms. So webhooks and the server's event
// log import it and not the domain. It starts no goroutine and keeps no state: the store
// does.
package log
