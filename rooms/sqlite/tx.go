package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"maps"

	"parlor/rooms"
	"parlor/rooms/log"
)

// writeConn is the one connection that writes, with its prepared statements. It belongs
// to the writer's goroutine. Its statements run with a context that never ends: one that
// can end costs a goroutine per statement, and nobody gains from an interrupted writer.
type writeConn struct {
	db         *sql.DB
	conn       *sql.Conn // nil until used, and after a failure that broke it
	statements map[string]*sql.Stmt
}

func (c *writeConn) statement(query string) (*sql.Stmt, error) {
	if st, ok := c.statements[query]; ok {
		return st, nil
	}
	ctx := context.Background()
	if c.conn == nil {
		conn, err := c.db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		c.conn, c.statements = conn, make(map[string]*sql.Stmt)
	}
	st, err := c.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	c.statements[query] = st
	return st, nil
}

func (c *writeConn) exec(query string, args ...any) (sql.Result, error) {
	st, err := c.statement(query)
	if err != nil {
		return nil, err
	}
	return st.ExecContext(context.Background(), args...)
}

// close returns the connection to the pool; the next statement takes another.
func (c *writeConn) close() error {
	if c.conn == nil {
		return nil
	}
	var errs []error
	for _, st := range c.statements {
		errs = append(errs, st.Close())
	}
	errs = append(errs, c.conn.Close())
	c.conn, c.statements = nil, nil
	return errors.Join(errs...)
}

// discard closes the connection for good, with its open transaction. It is for a
// connection that cannot even roll back.
func (c *writeConn) discard() {
	if c.conn == nil {
		return
	}
	for _, st := range c.statements {
		_ = st.Close() // the connection is broken and goes with them
	}
	_ = c.conn.Raw(func(any) error { return driver.ErrBadConn }) // makes the pool drop it
	_ = c.conn.Close()
	c.conn, c.statements = nil, nil
}

// facts is the writer's copy of committed values, so that it need not read them. Nobody
// else writes to the database.
type facts struct {
	epoch    int64
	eventSeq int64 // of the newest event
	open     int64 // rooms
	ended    int64
	people   int64 // participants in all open rooms
	// spentMs is until when the time of participants is counted. It is not stored: time in
	// which no process ran does not count.
	spentMs int64
	// endpoints is replaced, never changed in place.
	endpoints []log.Endpoint
}

// counts are changes of an endpoint's counters in a transaction.
type counts struct{ pending, dead, delivered, failures int64 }

// tx is the running transaction. It belongs to the writer's goroutine.
type tx struct {
	conn     *writeConn
	isolated bool // each job is behind a savepoint
	damage   *damage
	writes   int // statements that may have written
	facts
	counts map[int64]counts     // by endpoint
	hours  map[int64]rooms.Hour // what is added to hours, by their beginning
	news   bool                 // events were written or deliveries fell due
}

// mark is what a rollback to a savepoint must restore in memory.
type mark struct {
	facts  facts
	counts map[int64]counts
	hours  map[int64]rooms.Hour
	news   bool
}

func (t *tx) mark() mark {
	return mark{t.facts, maps.Clone(t.counts), maps.Clone(t.hours), t.news}
}

func (t *tx) restore(m mark) {
	t.facts, t.counts, t.hours, t.news = m.facts, m.counts, m.hours, m.news
}

// attempt runs f behind a savepoint of that name, so that what it has changed is undone if it
// fails.
func (t *tx) attempt(savepoint string, f func() error) error {
	if _, err := t.conn.exec("SAVEPOINT " + savepoint); err != nil {
		return err
	}
	m := t.mark()
	err := f()
	if err != nil {
		t.restore(m)
		if _, failed := t.conn.exec("ROLLBACK TO " + savepoint); failed != nil {
			return failed
		}
	}
	if _, failed := t.conn.exec("RELEASE " + savepoint); failed != nil {
		return failed
	}
	return err
}

// final reports whether err is one job's outcome, so that the transaction goes on without
// the job, and not a reason to run the transaction again or to undo it.
func (t *tx) final(err error) bool { return t.isolated || isRefusal(err) }

// count changes an endpoint's counters by d.
func (t *tx) count(endpointID int64, d counts) {
	if t.counts == nil {
		t.counts = make(map[int64]counts)
	}
	c := t.counts[endpointID]
	c.pending += d.pending
	c.dead += d.dead
	c.delivered += d.delivered
	c.failures += d.failures
	t.counts[endpointID] = c
}

// exec runs a statement that writes, and returns how many rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	t.writes++
	r, err := t.conn.exec(query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// changes is how many rows the connection has changed so far.
func (t *tx) changes() (n int64, err error) {
	err = t.row([]any{&n}, "SELECT total_changes()")
	return n, err
}

// row runs a statement that returns one row; it may write.
func (t *tx) row(dest []any, query string, args ...any) error {
	st, err := t.conn.statement(query)
	if err != nil {
		return err
	}
	return st.QueryRowContext(context.Background(), args...).Scan(dest...)
}

// rows runs a query and calls each for every row. each must not write: SQLite leaves
// undefined what a query reads of a table that is changed meanwhile.
func (t *tx) rows(each func(*sql.Rows) error, query string, args ...any) error {
	st, err := t.conn.statement(query)
	if err != nil {
		return err
	}
	return eachRow(st, context.Background(), each, args)
}

func eachRow(st *sql.Stmt, ctx context.Context, each func(*sql.Rows) error, args []any) error {
	rs, err := st.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rs.Close()
	for rs.Next() {
		if err := each(rs); err != nil {
			return err
		}
	}
	return rs.Err()
}

// flush writes the transaction's counters before it commits.
func (t *tx) flush(before facts) error {
	for id, c := range t.counts {
		if c == (counts{}) {
			continue
		}
		_, err := t.exec(`UPDATE endpoint SET pending = pending + ?, dead = dead + ?,
			delivered = delivered + ?, failures = failures + ? WHERE id = ?`,
			c.pending, c.dead, c.delivered, c.failures, id)
		if err != nil {
			return err
		}
	}
	if err := t.flushHours(); err != nil {
		return err
	}
	if t.epoch == before.epoch && t.eventSeq == before.eventSeq && t.open == before.open && t.ended == before.ended && t.people == before.people {
		return nil
	}
	_, err := t.exec("UPDATE meta SET epoch = ?, event_seq = ?, open_rooms = ?, ended_rooms = ?, people = ? WHERE id = 1",
		t.epoch, t.eventSeq, t.open, t.ended, t.people)
	return err
}
