// Package rooms is the domain: rooms, the participants in them, the tracks
// they publish, their subscriptions, and the events that tell the world.
//
// The nouns:
//
//   - A [Record] is a room's row: what the store keeps of it, open or ended.
//   - A [Session] is a participant's row: one stay of one identity in one room.
//   - An [log.Event] is what a webhook receiver gets: written in the transaction of
//     the change that it tells of.
//   - [Rooms] is the registry of rooms that are live: somebody is in them, or
//     joining, or expected back. A room that is not live is only its row.
//   - A [Room] is one live room: one goroutine with a mailbox that owns its
//     participants, tracks, subscriptions and permissions.
//   - A [Participant] is the edge's handle on one session in a live room.
//
// The package knows no HTTP, no WebSocket, no pion and no SQL. It has small interfaces
// for what it needs of them: [Store], [Outlet], [Peer] and [MediaTrack].
//
// Waits go one way: the edge may wait on a room; a room waits on nobody, it
// posts to peers, outlets and the store, and is called back through its
// mailbox. So there is no cycle of waits and no order of locks to keep.
package rooms
