package api

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"parlor/rooms"
	"parlor/rooms/guid"
	"parlor/server/access"
	"parlor/server/problem"
	"parlor/server/ratelimit"
)

// The bounds of those that wait.
const (
	maxKnocks          = 10_000 // before all rooms
	maxKnocksOfRoom    = 100
	maxKnocksOfAddress = 20 // before all rooms; the people of a company may share one address
	// knockLasts is how long a knock is kept after it was last asked for. Browsers let a page
	// in the background run once a minute.
	knockLasts = 90 * time.Second
)

// knockState is what has become of a knock.
type knockState int

const (
	knockWaiting  knockState = iota
	knockAdmitted            // the next request with it gets the token
	knockEntering            // the use of its invitation is being counted
	knockEntered             // kept with the answer, which may get lost on its way
	knockRefused             // kept so that its bearer hears of it
)

// knock is one guest who waits before a room. Its id is shown to hosts; its secret, of 256
// bits, is told to the guest alone.
type knock struct {
	id         string
	secretHash [sha256.Size]byte
	invitation string // its id
	room, name string
	network    string // see [ratelimit.Network]
	since      time.Time
	asked      time.Time // the last time before a host refused it or it entered
	state      knockState
	answer     *admission // that it entered with
}

// knocks are those that wait. They are in memory alone: after a restart of the server the
// page's next request has a knock that nobody knows, and is a new one.
type knocks struct {
	mu   sync.Mutex // guards the map and the knocks
	byID map[string]*knock
}

func newKnocks() *knocks { return &knocks{byID: map[string]*knock{}} }

var (
	errKnocks       = problem.New(http.StatusTooManyRequests, "too_many_knocks", "too many people wait to be let in: try again later")
	errKnockRefused = problem.New(http.StatusForbidden, "knock_refused", "a host of the room does not let you in")
	errNoKnock      = problem.New(http.StatusNotFound, "not_found", "nobody of this id waits before the room")
)

// find returns the knock of a secret for an invitation; nil if there is none. k.mu is held.
func (k *knocks) find(secret, invitation string, now time.Time) *knock {
	id, secret, _ := strings.Cut(secret, ".")
	one := k.byID[id]
	if one == nil || one.invitation != invitation || one.over(now) {
		return nil
	}
	hash := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(hash[:], one.secretHash[:]) != 1 {
		return nil
	}
	return one
}

// over reports whether the knock is to be forgotten.
func (one *knock) over(now time.Time) bool { return now.Sub(one.asked) > knockLasts }

// ask notes that the bearer of a secret still waits, and returns the knock as it is. A knock
// that was admitted is returned as that once: the caller counts the use, and tells by entered
// or failed what came of it.
func (k *knocks) ask(secret, invitation string, now time.Time) (knock, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one := k.find(secret, invitation, now)
	if one == nil {
		return knock{}, false
	}
	was := *one
	switch one.state {
	case knockWaiting:
		one.asked = now
	case knockAdmitted:
		one.asked, one.state = now, knockEntering
	}
	return was, true
}

// entered keeps the answer of a knock whose use was counted.
func (k *knocks) entered(id string, answer *admission) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one := k.byID[id]; one != nil {
		one.state, one.answer = knockEntered, answer
	}
}

// failed forgets a knock that cannot enter. After a fault that passes it stays admitted.
func (k *knocks) failed(id string, passes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one := k.byID[id]; one != nil && passes {
		one.state = knockAdmitted
		return
	}
	delete(k.byID, id)
}

// withdraw forgets one that waits, or was let in and has not entered.
func (k *knocks) withdraw(secret, invitation string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one := k.find(secret, invitation, now); one != nil && (one.state == knockWaiting || one.state == knockAdmitted) {
		delete(k.byID, one.id)
	}
}

// add adds a knock and returns its secret, or fails with errKnocks.
func (k *knocks) add(one knock) (secret string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ofRoom, ofAddress := 0, 0
	for id, other := range k.byID {
		switch {
		case other.over(one.since):
			delete(k.byID, id)
			continue
		case other.state == knockEntered:
			continue // it waits no more
		case other.network == one.network:
			ofAddress++
		}
		if other.room == one.room {
			ofRoom++
		}
	}
	if len(k.byID) >= maxKnocks || ofRoom >= maxKnocksOfRoom || ofAddress >= maxKnocksOfAddress {
		return "", errKnocks
	}
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails, by its contract
	secret = base64.RawURLEncoding.EncodeToString(random[:])
	one.secretHash, one.asked = sha256.Sum256([]byte(secret)), one.since
	k.byID[one.id] = &one
	return one.id + "." + secret, nil
}

// of returns those that wait before a room, in the order of coming.
func (k *knocks) of(room string, now time.Time) []*knock {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*knock // each type of struct that is sorted takes 20 KB of the program, and pointers share theirs
	for _, one := range k.byID {
		if one.room == room && one.state == knockWaiting && !one.over(now) {
			copied := *one
			all = append(all, &copied)
		}
	}
	slices.SortFunc(all, func(a, b *knock) int { return cmp.Or(a.since.Compare(b.since), strings.Compare(a.id, b.id)) })
	return all
}

// decide admits or refuses one who waits before a room. The same decision once more does no
// harm; a refusal can be taken back until it was heard and forgotten.
func (k *knocks) decide(room, id string, state knockState, now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	one := k.byID[id]
	if one == nil || one.room != room || one.over(now) {
		return errNoKnock
	}
	if one.state != knockEntering && one.state != knockEntered {
		one.state = state
	}
	return nil
}

// admitAll admits those that wait before a room.
func (k *knocks) admitAll(room string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.byID {
		if one.room == room && one.state == knockWaiting {
			one.state = knockAdmitted
		}
	}
}

// waiting answers a guest who is to wait.
type waiting struct {
	Waiting bool   `json:"waiting" doc:"true"`
	Knock   string `json:"knock" doc:"A secret, for the next request with the same invitation. One that is not known, as after a restart, makes a new knock."`
	Room    string `json:"room"`
}

// entry is whether the bearer of an invitation may come in.
type entry struct {
	waiting *waiting   // nil = it may
	answer  *admission // of the knock that has entered already; nil = none has
	knock   string     // the id of the knock that was admitted; "" = there was none
	name    string     // the one that the host was shown, if a host was asked
}

// enter asks for the hosts' consent, if the open room wants that.
func (s *rest) enter(r *http.Request, i *rooms.Invitation, body *redeemRequest, now time.Time) (entry, error) {
	free := entry{name: body.Name}
	if i.Role == rooms.RoleHost {
		return free, nil
	}
	rec, err := s.Records.FindOpen(r.Context(), i.RoomName)
	if err != nil && rooms.ErrorCode(err) != rooms.NotFound {
		return entry{}, err
	}
	one, known := s.knocks.ask(body.Knock, i.ID, now)
	if one.state == knockEntered {
		return entry{answer: one.answer}, nil
	}
	free.knock = one.id
	if err != nil || !rec.Config.WaitingRoom {
		return free, nil
	}
	if i.Usable(rooms.NowMs(now)) != nil { // a host is not asked in vain: using it tells why
		return free, nil
	}
	if known {
		switch one.state {
		case knockAdmitted:
			return entry{knock: one.id, name: one.name}, nil
		case knockRefused:
			return entry{}, errKnockRefused
		}
		return entry{waiting: &waiting{Waiting: true, Knock: body.Knock, Room: i.RoomName}}, nil
	}
	one = knock{
		id: guid.New("KN_"), invitation: i.ID, room: i.RoomName, name: cmp.Or(body.Name, i.Name),
		network: ratelimit.Network(r.RemoteAddr), since: now,
	}
	secret, err := s.knocks.add(one)
	if err != nil {
		if s.KnockRefused != nil {
			s.KnockRefused()
		}
		return entry{}, err
	}
	s.Log.Info("a guest waits", "id", one.id, "invitation", i.ID, "room", i.RoomName, "address", access.Address(r.RemoteAddr))
	return entry{waiting: &waiting{Waiting: true, Knock: secret, Room: i.RoomName}}, nil
}

// shownKnock is one who waits, as REST shows it.
type shownKnock struct {
	ID    string     `json:"id"`
	Name  string     `json:"name" doc:"As it says itself; empty if it gave none."`
	Since *timestamp `json:"since"`
}

type knockList struct {
	Knocks []shownKnock `json:"knocks"`
}

func (s *rest) listKnocks(w http.ResponseWriter, r *http.Request) error {
	room, err := s.knockedAt(r)
	if err != nil {
		return err
	}
	list := knockList{Knocks: []shownKnock{}}
	for _, one := range s.knocks.of(room, s.now()) {
		list.Knocks = append(list.Knocks, shownKnock{ID: one.id, Name: one.name, Since: at(rooms.NowMs(one.since))})
	}
	return sendJSON(w, http.StatusOK, list)
}

// knockedAt is the name of the request's room.
func (s *rest) knockedAt(r *http.Request) (string, error) {
	if err := s.invitationsOn(); err != nil {
		return "", err
	}
	return pathValue(r, "name")
}

func (s *rest) admitAll(w http.ResponseWriter, r *http.Request) error {
	room, err := s.knockedAt(r)
	if err != nil {
		return err
	}
	s.knocks.admitAll(room)
	return sendNothing(w)
}

// decide admits or refuses one who waits.
func (s *rest) decide(state knockState) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		room, err := s.knockedAt(r)
		if err != nil {
			return err
		}
		id, err := pathValue(r, "id")
		if err != nil {
			return err
		}
		if err := s.knocks.decide(room, id, state, s.now()); err != nil {
			return err
		}
		return sendNothing(w)
	}
}

// withdraw has the bearer of a knock wait no more.
func (s *rest) withdraw(w http.ResponseWriter, r *http.Request) error {
	if err := s.invitationsOn(); err != nil {
		return err
	}
	var body withdrawRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	invitation, _, _ := strings.Cut(body.Secret, ".")
	s.knocks.withdraw(body.Knock, invitation, s.now())
	return sendNothing(w)
}
