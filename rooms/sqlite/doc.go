// Package sqlite keeps rooms, sessions, events and what is on its way to webhook
// receivers in an SQLite database: it implements [rooms.Store], [rooms.History],
// [rooms.Moderation] and [log.Outbox], and has the only SQL about them.
//
// # Writing
//
// One goroutine, the writer, owns the only connection that writes. It takes what
// is queued, runs it in one transaction in the order in which it came, commits,
// and answers everyone (group commit): so what is answered is on disk
// (synchronous=FULL), and the cost of the disk is shared by all who wait for it.
// A job that the database refuses costs the others nothing but a second run, in
// which each job stands behind a savepoint. A disk that fails fails the whole
// transaction: everyone in it is told why, and the writer goes on, so that it
// recovers when the disk does.
//
// Between transactions the writer calls [Config].Sync, for a replication that
// would otherwise compete with it for the database's write lock and lose.
//
// # Reading
//
// Reads have a pool of connections of their own, see what is committed, and
// never wait for the writer. They are short: none is held across a wait.
//
// # Files
//
// Beside the database stand SQLite's -wal and -shm, and a .lock: the process that
// has the database open holds a lock on that file, which the kernel takes away when the
// process ends in whatever manner. The database must not be opened, read or
// copied by other means from this process: closing any file descriptor of it
// drops SQLite's own locks. Before a migration a copy of the database is kept beside it,
// as .vN.backup with the version that it has.
package sqlite
