// Package sqlite keeps rooms, sessions, events and webhook deliveries in an SQLite
// database. It implements [rooms.Store], [rooms.History], [rooms.Moderation],
// [rooms.DispatchRecords], [rooms.AgentKinds] and [log.Outbox], and has the only SQL
// about them.
//
// # Writing
//
// One goroutine, the writer, owns the only connection that writes. It takes the queued
// jobs, runs them in one transaction in the order in which they came, commits, and
// answers all callers (group commit). So an answered change is on disk
// (synchronous=FULL), and all waiting callers share the cost of the disk. If the database
// refuses one job, the transaction is run again with each job behind a savepoint, and
// only that job fails. If the disk fails, the whole transaction fails and every caller
// gets the reason; the writer goes on, and recovers when the disk does.
//
// Between transactions the writer calls [Config].Sync, because a replication that ran by
// itself would compete for the database's write lock and lose.
//
// # Reading
//
// Reads have connections of their own, see what is committed, and never wait for the
// writer. They are short: none lasts while its caller waits for something else.
//
// # Files
//
// Beside the database are SQLite's -wal and -shm, and a .lock. The process that has the
// database open holds a lock on that file; the kernel releases the lock however the
// process ends. This process must not open, read or copy the database by other means:
// closing any file descriptor of it drops SQLite's own locks. Before a migration a copy
// of the database is kept beside it, as .vN.backup with its version N.
package sqlite
