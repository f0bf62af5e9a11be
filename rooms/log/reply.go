package log

import "crypto/sha256"

// Reply is the stored answer to a request with an Idempotency-Key.
type Reply struct {
	Key         [sha256.Size]byte // of API key, path and Idempotency-Key
	APIKey      string            // the API key of the request
	Fingerprint [sha256.Size]byte // of the request's content: another request with the same key is refused
	CreatedMs   int64
	Status      int
	Header      map[string]string
	Body        []byte
}
