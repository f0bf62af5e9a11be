// Package lockfile locks open files against other processes, and identifies files. The lock
// ends when the file is closed or the process ends.
package lockfile

import (
	"fmt"
	"os"
	"time"
)

// A lock that its process has given up is held for some ms more by a child of that process
// that is just being started.
const (
	tries = 10
	pause = 20 * time.Millisecond
)

// Take takes the lock as [Try] does, and tries for a moment if another process has it.
func Take(f *os.File) (bool, error) {
	got, err := Try(f)
	for n := 1; n < tries && !got && err == nil; n++ {
		time.Sleep(pause)
		got, err = Try(f)
	}
	return got, err
}

// Open opens a regular file for reading and writing, or makes it. It does not follow a
// symbolic link, by which a privileged process could truncate another file.
func Open(path string, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|noFollow, mode)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		_ = f.Close() // nothing was written to it
		if err == nil {
			err = fmt.Errorf("%s is not a regular file", path)
		}
		return nil, err
	}
	return f, nil
}
