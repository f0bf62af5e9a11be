package log

import "context"

// Deed is a line of the audit: somebody had the API change something.
type Deed struct {
	ID       int64 // grows; set by the store
	AtMs     int64
	APIKey   string // whose secret or token it was done with
	Identity string // of the token; "" = it had none
	Session  string // of the dashboard; "" = it was not done there
	Role     string // of that session
	Address  string // the caller's
	Call     string // the operation's id in REST, or Twirp's method
	Path     string // method and path, without the query; "" for Twirp
	Room     string // its name; "" = none, or several
	// Participant is the identity that it was done to; "" = nobody's.
	Participant string
}

// DeedQuery asks for a page of the audit, the newest first.
type DeedQuery struct {
	Before    int64  // deeds with lower ids; 0 = from the newest on
	Room      string // "" = all
	Dashboard bool   // those of the dashboard alone
	Limit     int
}

// Audit keeps deeds.
type Audit interface {
	// NoteDeed keeps d, with the next transaction, and forgets the oldest if there are
	// too many; those of the dashboard do not give way to others. It does not wait: done is
	// told what became of it, once, and must not block.
	NoteDeed(d Deed, done func(error))
	// Deeds returns a page of the audit.
	Deeds(ctx context.Context, q DeedQuery) ([]Deed, error)
}
