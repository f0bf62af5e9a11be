// Package guid makes identifiers: RM_…, PA_…, TR_…, EV_….
package guid

import (
	"crypto/rand"
	"encoding/binary"
	"time"
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// Length is how many letters and digits an identifier has after its prefix.
const Length = 19

// New makes an identifier: the prefix, seven characters of time and twelve random ones
// (71 bits). With the time in front, new ids go to the end of an index and not all over
// it.
func New(prefix string) string {
	b := make([]byte, 0, len(prefix)+Length)
	b = append(b, prefix...)
	t := uint64(time.Now().UnixMilli())
	var head [7]byte
	for i := len(head) - 1; i >= 0; i-- {
		head[i] = alphabet[t%62]
		t /= 62
	}
	b = append(b, head[:]...)
	var r [16]byte
	rand.Read(r[:]) // never fails, by its contract
	hi, lo := binary.BigEndian.Uint64(r[:8]), binary.BigEndian.Uint64(r[8:])
	for range 6 {
		b = append(b, alphabet[hi%62], alphabet[lo%62])
		hi /= 62
		lo /= 62
	}
	return string(b)
}
