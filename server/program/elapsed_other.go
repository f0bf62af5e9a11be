//go:build !linux

package program

import "time"

// elapsed counts nothing better than what the domain counts by itself.
func elapsed() (count func() time.Duration, boot string) { return nil, "" }
