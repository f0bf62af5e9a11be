// Package rooms is the domain: rooms, the participants in them, the tracks that
// participants publish, their subscriptions, and the events that webhooks deliver.
//
// The nouns:
//
//   - A [Record] is a room's row: what the store keeps of it, open or ended.
//   - A [Session] is a participant's row: one stay of one identity in one room.
//   - A [log.Event] is what a webhook receiver gets. It is written in the transaction of
//     the change that it tells of.
//   - [Rooms] is the registry of live rooms. A room is live while a participant is in it,
//     joins it, or is expected back in it. A room that is not live is only its row.
//   - A [Room] is one live room: one goroutine with a mailbox that owns its
//     participants, tracks, subscriptions and permissions.
//   - A [Participant] is one session in a live room. Another room, another participant.
//   - A [Client] is the edge's handle on whichever participant a client is: a move makes
//     it another.
//
// The package knows no HTTP, no WebSocket, no pion and no SQL. It reaches them through
// small interfaces: [Store], [Outlet], [Peer] and [MediaTrack].
//
// Waits go one way: the edge may wait for a room, and a room waits for nobody. A room
// posts to peers, outlets and the store, and their answers come to its mailbox. So there
// is no cycle of waits and no order of locks to keep.
package rooms
