//go:build unix

package program

import "golang.org/x/sys/unix"

// freeBytes is the space that a user may still fill on the disk of a folder.
func freeBytes(folder string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(folder, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}
