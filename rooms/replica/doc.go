// Package replica keeps a copy of the database on S3 or in another directory, restores it
// where it is missing, and makes sure that one machine at a time goes on from it.
// Litestream runs inside the process for that, so the litestream command can read the
// replica.
//
// # What is on the replica
//
//	owner.json      the lease: epoch, owner, machine, expiry
//	gen-<epoch>/    the generation that the holder of that epoch writes
//
// An epoch grows each time another process takes the lease, and never falls: owner.json
// is never deleted, only marked as released. The process that gets a new epoch begins a
// generation of its own with a full snapshot. So two machines never write to one place,
// even if neither knows of the other. Two writers of one Litestream path make it
// unrestorable, and Litestream does not guard against that.
//
// # The lease
//
// The lease is taken and renewed by writes that succeed only if owner.json is unchanged
// (If-Match and If-None-Match on S3, a lock on a file in a directory). Its age is
// measured by the server's clock, or by ours if the server's answer has none. The lease
// is renewed every third of its time. A holder that could not renew it stops writing some
// time before others may take it: [Replica.Check] fails, and with it the store's writes
// and every upload. When it learns that another holds the lease, or its patience ends, it
// has lost the lease for good: [Config].OnLost.
//
// A process that starts on the machine that holds the lease, in the same boot, with the
// same database, takes the lease at once, even before it runs out, and goes on in the
// same generation. A copy of the database's folder does not count as the same database:
// its process waits as another machine does.
//
// # Which database is right
//
// A start compares three things: the database; the stage, which is the folder beside it
// from which Litestream uploads, and whose last transaction tells how far the database
// was replicated; and the newest generation on the replica. Beside the database is a
// file, .replica, which names the replica and the database's epoch. The first line that
// fits decides:
//
//	database                                 newest generation           what happens
//	--------------------------------------------------------------------------------------------
//	of this replica, and was replicated      none                        ErrEmpty
//	none, or of another replica              none, owner.json has it     ErrEmpty
//	its WAL is lost                          none                        ErrUnknown
//	of another replica, or no .replica       there                       ErrUnknown
//	ours                                     none yet in our epoch       kept, same epoch
//	ours, the stage has all of it            of our epoch                kept, same generation
//	ours, any other                          any                         kept, new generation
//	not ours                                 none                        kept, new generation
//	not ours, as it was restored             of an older epoch           kept, new generation
//	not ours, restored and never served      of an older epoch           moved aside, restored
//	not ours                                 of an older epoch           kept, new generation
//	not ours, the stage has all of it        of its epoch                kept, new generation
//	not ours, the stage lacks some of it     of its epoch                moved aside, restored
//	not ours                                 of a newer epoch            moved aside, restored
//	none, or half a restore                  there                       restored
//	none, or half a restore                  none                        begun empty
//
// A database is ours if this machine held the lease last, with this database. It is as it was
// restored if it never served since, and nothing is on the replica that was not there then. So a
// machine whose identity is new at each start does not restore at each of them. A WAL is
// lost if the process died while it served, and the WAL that it left is gone or empty. Such a
// database is kept by the lines above only if it is whole and has events that the replica
// lacks, as when somebody opened it in between; else it is moved aside and the newest
// generation is restored. A WAL is also lost if somebody cut it, while the server ran or after
// it was killed. Such a database is a mixture of old and new pages: it is never kept. A process
// serves, in this sense, until SQLite has copied the WAL into the database as it closes. What was
// staged before the WAL was lost is uploaded to the generation first, if that is the newest,
// and the stage is moved aside with the database. .replica says where to, so that a start that
// dies meanwhile is gone on with. If .replica says that the stage was given up (unstaged), the
// database has all that its epoch's generation has.
//
// No database is ever deleted. Where a line says ErrEmpty or ErrUnknown nothing is
// changed, and [Config].Adopt is how an operator says that the database is right: then it
// is kept, in a new generation.
//
// # Goroutines
//
// The lease has one goroutine, from [Replica.Prepare] to [Replica.Close]. From
// [Replica.Start] to Close the uploads, the merging of files and the pruning of
// generations have one each; so has each upload while it runs, to watch the lease. The
// rest are Litestream's, which Close ends too.
package replica
