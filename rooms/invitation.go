package rooms

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// The roles that an [Invitation] gives.
const (
	RoleHost  = "host"  // may administer the room, and invite guests
	RoleGuest = "guest" // may speak, listen and send data
)

// Invitation lets people into whatever room bears a name: one that has ended does not end
// it, since the next room of that name is the same meeting to those who have the link.
type Invitation struct {
	ID         string
	SecretHash [sha256.Size]byte // of the secret in the link, which is kept nowhere
	RoomName   string
	Role       string
	Name       string // whom it is for; "" = anybody
	APIKey     string // signs the tokens that it is exchanged for
	CreatedBy  string // the identity of the host who made it; "" = the API key
	CreatedMs  int64
	Uses       int64 // how often it can be used; 0 = no limit
	Used       int64
	UsedMs     int64 // the last time; 0 = never
	ExpiresMs  int64 // 0 = never
	RevokedMs  int64 // 0 = it is not
}

// NewSecret makes i's secret, of 256 bits, and keeps its hash. text is what the link carries:
// the id, a dot and the secret.
func (i *Invitation) NewSecret() (text string) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails, by its contract
	secret := base64.RawURLEncoding.EncodeToString(random[:])
	i.SecretHash = sha256.Sum256([]byte(secret))
	return i.ID + "." + secret
}

// The failures of using an [Invitation].
var (
	// ErrNoInvitation: there is none of that id.
	ErrNoInvitation      = &Error{NotFound, "there is no such invitation"}
	ErrInvitationRevoked = &Error{Denied, "this invitation was taken back"}
	ErrInvitationExpired = &Error{Denied, "this invitation has expired"}
	ErrInvitationUsed    = &Error{Denied, "this invitation was used as often as it can be"}
	// ErrInvitations: a room name has as many that can be used as it may have.
	ErrInvitations = &Error{Exhausted, "the room has as many invitations as it may have: revoke some"}
)

// Usable is why an invitation cannot be used at a time; nil if it can.
func (i *Invitation) Usable(nowMs int64) error {
	switch {
	case i.RevokedMs != 0:
		return ErrInvitationRevoked
	case i.ExpiresMs != 0 && i.ExpiresMs <= nowMs:
		return ErrInvitationExpired
	case i.Uses != 0 && i.Used >= i.Uses:
		return ErrInvitationUsed
	}
	return nil
}
