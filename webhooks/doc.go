// Package webhooks sends the events in the outbox to every endpoint that wants them.
//
// # What is promised
//
// An event is written in the transaction of the change that it tells of, with one
// delivery for each endpoint that wants it. A [Dispatcher] sends each delivery until the
// receiver acknowledges it with a 2xx status, which alone is success, or until it is
// given up and becomes a dead letter, which can be listed and replayed. No restart, crash
// or full queue drops a delivery.
//
// Delivery is at least once. After a crash, a timeout or a lost answer an event is sent
// again, with the same id and the same bytes. Receivers should be idempotent: remember
// the webhook-id (which is the id in the body) of each event that was processed.
//
// # Order
//
// The events of one room reach one endpoint in order, one at a time. Rooms do not wait
// for each other, and endpoints do not wait for each other; an endpoint gets up to 8
// requests at a time ([Config].Concurrency).
//
// When one event fails while others get through, the ordering decides about the later
// events of its
// room. With [Relaxed], the default, they pass it after its third failed attempt (after
// some 5
// minutes), so that days of retries do not block a room. With [Strict] they wait until it
// is
// delivered or dead. An endpoint that cannot be reached does not change the order: while
// it is
// down, attempts do not count. By the headers parlor-seq (over all events),
// parlor-room-seq (within
// the room, gapless from 1) and parlor-epoch (grows when a replica takes over) a receiver
// can check
// order and gaps; an event that its filter excludes is a gap too.
// # Attempts
//
// A request may take 15 seconds. Redirects are not followed; a bad certificate is a
// failure. After a failure the next attempts come 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14
// h, 20 h and 24 h later, each ±20 %: ten in three days, then the event is a dead letter.
// [Endpoint].RetryFor changes how long this takes. A Retry-After with 429 or 503 is
// honoured, up to an hour. A 410 disables the endpoint: its pending deliveries become
// dead letters, and no events are recorded for it until it is resumed.
//
// An endpoint with 8 failed attempts in a row, or without a success for 3 seconds, counts
// as down: one request at a time probes it, after 1, 2, 4 … 60 seconds. If it answers but
// refuses, probes with events that are not yet due come at most every 5 minutes. A failed
// probe does not count as an attempt, unless its event was due and the receiver answered.
// When the endpoint is back, all pending deliveries are sent at once. Events that a down
// endpoint has not taken for three days become dead letters, and so do the oldest of more
// than a million.
//
// # Signatures
//
// Authorization has LiveKit's token: HS256 with the API secret, the body's SHA-256 as
// claim sha256, made for each attempt and valid for 5 minutes. LiveKit's receivers verify
// it unchanged. There are also the headers of Standard Webhooks 1.0: webhook-id,
// webhook-timestamp and webhook-signature, with the secrets of the configuration or the
// one of [DeriveSecret].
//
// # With a replica
//
// With [Config].Barrier an event is sent only when the replica has it, so that no
// receiver sees an event that a restore would undo. While the replica cannot be reached,
// nothing new is sent.
//
// With [Config].Allow nothing is sent while another machine may have taken over: then
// that machine sends the pending deliveries.
//
// # The log
//
// Programs can pull the same events from the log (package rooms/log), which also prunes
// them by age and number, but never an event whose delivery is pending.
package webhooks
