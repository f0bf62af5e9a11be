// Package replica keeps a copy of the database on S3 or in another directory,
// restores it where it is missing, and sees to it that one machine at a time
// goes on from it. Litestream runs inside the process for that: its format, so
// its command can read what stands here.
//
// # What stands on the replica
//
//	owner.json      who holds the lease: epoch, owner, machine, expiry
//	gen-<epoch>/    the generation that the holder of that epoch writes
//
// An epoch grows with every lease that another took before, and never falls:
// owner.json is never deleted, only marked as released. Whoever gets a new epoch
// begins a generation of its own with a full snapshot, so that two machines
// never write to one place, whatever they believe of each other. Two writers of
// one Litestream path make it unrestorable, and Litestream does not guard
// against them.
//
// # The lease
//
// It is taken and renewed by writes that succeed only if owner.json is as it was
// last seen (If-Match and If-None-Match on S3, a lock on a file elsewhere). Its
// age is read off the server's clock alone. It is renewed every third of its
// time. A holder that could not renew it stops to write some time before others
// may take it: [Replica.Check] fails, and with it the store's writes and every
// upload. When it learns that another holds it, or its patience ends, it has
// lost the lease, for good: [Config].OnLost.
//
// A process that starts on the machine that holds the lease, on the same boot,
// with the same database, takes it up at once, whether it ran out or not, and
// goes on in the same generation. A copy of the database's folder is not the same:
// it waits as another machine does.
//
// # Which database is right
//
// Beside the database stands a file, .replica, which says of which epoch of
// which replica it is. A database that is behind the newest generation is moved
// aside, never deleted, and the newest generation is restored. One that is at or
// ahead of it is kept. One whose process died and whose WAL is gone is not what was
// replicated, however far that got: it is kept only if it has events that the
// replica has not, as when somebody opened it in between. One of which this cannot be told is not touched: that is
// an error, and [Config].Adopt is how an operator says that it is right. So it is
// where owner.json says that there was something, and nothing is there.
//
// # Goroutines
//
// The lease has one goroutine, from [Replica.Prepare] to [Replica.Close]; the
// uploads have one, from [Replica.Start] to Close; the rest are Litestream's,
// which Close ends, too.
package replica
