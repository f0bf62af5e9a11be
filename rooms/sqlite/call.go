package sqlite

import (
	"context"
	"database/sql"

	"parlor/rooms"
)

// call runs f in the writer's next transaction and waits for the commit. If ctx ends
// first, f may still run.
func call[T any](ctx context.Context, s *Store, f func(*tx) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	answer := make(chan result, 1)
	var r result // belongs to the writer until it is sent
	s.writer.queue.submit(job{
		run: func(t *tx) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			r.value, err = f(t)
			return err
		},
		done: func(err error) {
			r.err = err
			answer <- r
		},
	})
	select {
	case a := <-answer:
		if a.err != nil {
			var none T
			return none, a.err
		}
		return a.value, nil
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// do is call for functions without a result.
func (s *Store) do(ctx context.Context, f func(*tx) error) error {
	_, err := call(ctx, s, func(t *tx) (struct{}, error) { return struct{}{}, f(t) })
	return err
}

// Between runs f on the writer's goroutine between two transactions, after everything
// that was submitted before is committed, and waits for it. Replication uses it where it
// must not meet a transaction.
func (s *Store) Between(ctx context.Context, f func(context.Context) error) error {
	answer := make(chan error, 1)
	s.writer.queue.submit(job{
		alone: func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return f(ctx)
		},
		done: func(err error) { answer <- err },
	})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// statement returns a prepared statement of the reading connections.
func (s *Store) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.statements == nil {
		return nil, rooms.ErrStopping
	}
	if st, ok := s.statements[query]; ok {
		return st, nil
	}
	st, err := s.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s.statements[query] = st
	return st, nil
}

// one reads a single row; sql.ErrNoRows is returned unchanged.
func (s *Store) one(ctx context.Context, dest []any, query string, args ...any) error {
	st, err := s.statement(ctx, query)
	if err == nil {
		err = st.QueryRowContext(ctx, args...).Scan(dest...)
	}
	if err != nil && err != sql.ErrNoRows {
		return s.unread.note(readFailure(s.path, err))
	}
	return err
}

// each calls f for each row of a result.
func (s *Store) each(ctx context.Context, f func(*sql.Rows) error, query string, args ...any) error {
	st, err := s.statement(ctx, query)
	if err == nil {
		err = eachRow(st, ctx, f, args)
	}
	if err != nil {
		return s.unread.note(readFailure(s.path, err))
	}
	return nil
}
