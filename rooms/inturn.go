package rooms

import "hash/maphash"

// inTurn has what moves an identity between rooms, what lets it into a breakout room, and what
// is decided of it in all rooms of a division be done one after the other: else a ban or a
// removal that looks through the rooms, one by one, could miss who goes from one to another
// meanwhile. Identities share turns, so that there are none to forget.
//
// A turn is held while rooms and the disk are waited for, so no room's goroutine waits for
// one, and who has one takes no other.
type inTurn [64]chan struct{}

var turnSeed = maphash.MakeSeed()

func newInTurn() (t inTurn) {
	for i := range t {
		t[i] = make(chan struct{}, 1)
	}
	return t
}

// of waits for the turn of an identity, and returns what ends it.
func (t *inTurn) of(identity string) (over func()) {
	turn := t[maphash.String(turnSeed, identity)%uint64(len(t))]
	turn <- struct{}{}
	return func() { <-turn }
}
