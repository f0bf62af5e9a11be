package log

import "crypto/sha256"

// Reply is what a request with an Idempotency-Key was answered.
type Reply struct {
	Key         [sha256.Size]byte // of API key, path and Idempotency-Key
	APIKey      string            // whose request it was
	Fingerprint [sha256.Size]byte // of the request: another request with the key is refused
	CreatedMs   int64
	Status      int
	Header      map[string]string
	Body        []byte
}
