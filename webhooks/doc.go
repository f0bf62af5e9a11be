// Package webhooks reads the outbox: it brings every event to every receiver
// that wants it, and lets others pull the same log.
//
// # What is promised
//
// An event is written in the transaction of the change that it tells of, with
// one delivery for each endpoint that wants it. A [Dispatcher] sends each until
// the receiver has acknowledged it with a 2xx status, which alone is success, or
// until it is given up and stands as a dead letter that can be seen and replayed.
// Nothing is dropped otherwise: not by a restart, a crash, or a full queue.
//
// Delivery is at least once. After a crash, a timeout or a lost answer an event
// is sent again, with the same id and the same bytes. Receivers should be idempotent:
// keep the webhook-id (which is the id in the body) of what they have done.
//
// # Order
//
// The events of one room reach one endpoint in their order, one at a time. Rooms
// do not wait for each other, and endpoints do not wait for each other; up to 8
// requests ([Config].Concurrency) are under way to an endpoint.
//
// When one event fails while others get through, ordering decides what becomes
// of the later events of its room. With [Relaxed], the default, they pass it
// after its third failed attempt (after some 5 minutes), since days of retries
// must not dam a room. With [Strict] they wait until it is delivered or dead. An
// endpoint that cannot be reached at all breaks no order: while it is down
// attempts do not count. The headers parlor-seq (over all events),
// parlor-room-seq (within the room, gapless from 1) and parlor-epoch (grows when
// a replica takes over) let a receiver tell order and gaps for itself; an event
// that its filter leaves out is a gap too.
//
// # Attempts
//
// A request has 15 seconds. Redirects are not followed; a bad certificate is a
// failure. After a failure the next attempts come 5 s, 5 min, 30 min, 2 h, 5 h,
// 10 h, 14 h, 20 h and 24 h later, each ±20 %: ten in three days, then the event
// is a dead letter; [Endpoint].RetryFor makes it sooner or later. A Retry-After
// with 429 or 503 is honoured, up to an hour. A 410 disables the endpoint: what
// pends for it becomes dead letters, and nothing more is recorded for it until it
// is resumed.
//
// An endpoint where 8 attempts in a row fail, or where nothing has succeeded for
// 3 seconds, counts as down: one request at a time probes it, after 1, 2, 4 …
// 60 seconds, and every 5 minutes with events that are not yet due if it answers
// but refuses them. Failed probes use up no attempts, except that an event which
// is due and which the receiver answers for counts it. When the endpoint is
// back, all that pends is sent at once. Events that a down endpoint has not taken
// for three days become dead letters, as do the oldest when a million pend.
//
// # Signatures
//
// Authorization carries LiveKit's token: HS256 with the API secret, the body's
// SHA-256 as claim sha256, made for each attempt and valid for 5 minutes.
// LiveKit's receivers verify it as it is. Beside it stand the headers of Standard
// Webhooks 1.0: webhook-id, webhook-timestamp and webhook-signature, with the
// secrets of the configuration or that of [DeriveSecret].
//
// # With a replica
//
// With [Config].Barrier an event goes out only when the replica has it, so that no
// receiver has seen what a restore would forget. While the replica cannot be
// reached, nothing new is sent.
//
// With [Config].Allow nothing is sent at all while another machine may have taken
// over: what pends is its to send.
//
// # The log
//
// [Log] is the same events for programs that pull them. [Retention] prunes them by age and
// number, but for events that still pend.
package webhooks
