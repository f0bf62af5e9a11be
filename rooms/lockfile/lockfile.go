// Package lockfile locks open files against other processes, and identifies files. The lock
// ends when the file is closed or the process ends.
package lockfile

import (
	"fmt"
	"os"
)

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
