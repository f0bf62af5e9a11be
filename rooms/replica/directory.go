package replica

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"

	"parlor/rooms/lockfile"
)

// directory is a replica in a directory. The holder of the lease holds a lock on a file
// there, so the lease ends when its process ends, whatever the time.
type directory struct {
	dir  string
	lock *os.File // nil for readers; used by one goroutine at a time, which writes owner.json
}

func openDirectory(dir string, lock bool) (*directory, error) {
	d := &directory{dir: dir}
	if !lock {
		return d, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make replica directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "owner.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open replica's lock: %w", err)
	}
	switch got, err := lockfile.Take(f); {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	case !got:
		defer f.Close()
		return nil, d.held()
	}
	d.lock = f
	return d, nil
}

// held returns an error that names the process that has the lock.
func (d *directory) held() error {
	b, _, _, err := d.readOwner(context.Background())
	if err != nil {
		return &HeldError{Owner: "another process"}
	}
	o, err := decodeOwner(b)
	if err != nil {
		return &HeldError{Owner: "another process"}
	}
	return &HeldError{Owner: o.Owner, Epoch: o.Epoch}
}

func (d *directory) readOwner(context.Context) (b []byte, version string, age time.Duration, err error) {
	b, err = os.ReadFile(filepath.Join(d.dir, ownerName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, "", 0, errNoOwner
	}
	if err != nil {
		return nil, "", 0, err
	}
	return b, digest(b), -1, nil
}

// writeOwner compares and then writes; the lock keeps other processes from writing
// between.
func (d *directory) writeOwner(ctx context.Context, b []byte, version string) (string, error) {
	if err := d.relock(); err != nil {
		return "", err
	}
	_, current, _, err := d.readOwner(ctx)
	if err != nil && !errors.Is(err, errNoOwner) {
		return "", err
	}
	if current != version {
		return "", errChanged
	}
	return digest(b), replaceFile(filepath.Join(d.dir, ownerName), b)
}

// relock takes the lock again if its file was removed, perhaps with the directory:
// another process would lock a new file. It fails with [errChanged] if another has the
// new lock.
func (d *directory) relock() error {
	held, err := d.lock.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(d.lock.Name())
	if err == nil && os.SameFile(held, there) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	again, err := openDirectory(d.dir, true)
	if other := (*HeldError)(nil); errors.As(err, &other) {
		return fmt.Errorf("%w: %w", errChanged, err)
	}
	if err != nil {
		return err
	}
	old := d.lock
	d.lock = again.lock
	return old.Close()
}

func (d *directory) probe(context.Context, []byte) error { return nil }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// replaceFile writes a file so that a crash leaves the old one or the new one.
func replaceFile(name string, b []byte) error {
	f, err := os.Create(name + ".tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(name))
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (d *directory) generations(context.Context) ([]int64, error) {
	entries, err := os.ReadDir(d.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []int64
	for _, e := range entries {
		if n, ok := parseGeneration(e.Name()); ok && e.IsDir() {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

func (d *directory) client(n int64) (litestream.ReplicaClient, error) {
	if n == 0 {
		return file.NewReplicaClient(d.dir), nil
	}
	return file.NewReplicaClient(filepath.Join(d.dir, generation(n))), nil
}

func (d *directory) close() error {
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}
