package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"

	"parlor/rooms/lockfile"
)

// local is the file .replica beside the database: it names the database's replica and
// tells how new the database is. It is written before the database changes, so that the
// next start understands the state after a crash.
type local struct {
	Machine    string `json:"machine"`    // random, made once: a part of Config.Machine
	Replica    string `json:"replica"`    // owner.Replica; "" = none yet
	URL        string `json:"url"`        // for people, and to recognise a replica whose owner.json is gone
	Epoch      int64  `json:"epoch"`      // the lease under which the database was last opened
	Replicated bool   `json:"replicated"` // a generation was begun, so the replica must not be empty
	Restoring  bool   `json:"restoring"`  // the database, if there is one, may be half restored
	// Serving is set while the database is replicated. During that time the database is
	// open, so there is a WAL.
	Serving bool `json:"serving"`
	// Restored is the generation from which the database was restored, as long as it was not
	// served since: it has nothing of its own. 0 = it was served, or made here. RestoredTo is
	// the last transaction that it got from there; 0 = that is not known.
	Restored   int64    `json:"restored,omitempty"`
	RestoredTo ltx.TXID `json:"restored_to,omitempty"`
	// Unstaged: the stage does not tell how new the database is. The database has at
	// least all that the generation of Epoch has, to which nothing is written any more.
	Unstaged bool `json:"unstaged,omitempty"`
	// Cut: the WAL was cut while the database was replicated, so that the database may lack
	// what is on the replica.
	Cut bool `json:"cut,omitempty"`
	// Staged is the last transaction that was staged while the WAL was known to be whole. 0
	// beside Cut: that is not known.
	Staged ltx.TXID `json:"staged,omitempty"`
	// Aside is the name to which the database is being moved, together with the stage if
	// AsideStage is set. A start that finds it goes on with that.
	Aside      string `json:"aside,omitempty"`
	AsideStage bool   `json:"aside_stage,omitempty"`
}

func localPath(database string) string { return database + ".replica" }

// readLocal reads the file; a missing file gives the zero value.
func readLocal(database string) (local, error) {
	b, err := os.ReadFile(localPath(database))
	if errors.Is(err, fs.ErrNotExist) {
		return local{}, nil
	}
	if err != nil {
		return local{}, err
	}
	var l local
	if err := json.Unmarshal(b, &l); err != nil {
		return local{}, fmt.Errorf("%s is damaged, remove it if the database may be restored from the replica: %w", localPath(database), err)
	}
	return l, nil
}

func (l local) write(database string) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(localPath(database), append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", localPath(database), err)
	}
	return nil
}

// machineID identifies this machine in this boot with this database. A copy of the disk
// that runs elsewhere counts as another machine, and so does a copy of the folder that
// runs here.
func machineID(l local, database string) (string, error) {
	folder, err := fileID(database + ".lock")
	if err != nil {
		return "", err
	}
	id := l.Machine + "/" + folder
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if errors.Is(err, fs.ErrNotExist) { // not Linux
		host, err := os.Hostname()
		return host + "/" + id, err
	}
	return strings.TrimSpace(string(boot)) + "/" + id, err
}

// fileID identifies a file among all files that exist now, by device and inode; "" if
// there is no such file. The lock file's is used because that file is never replaced. On
// a file system that does not keep these numbers, a restart waits for the lease as
// another machine does.
func fileID(path string) (string, error) {
	id, err := lockfile.ID(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	return id, nil
}

// exists reports whether there is a database, or a WAL, at path.
func exists(path string) (bool, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return fi.Size() > 0, nil // SQLite makes an empty file before it writes
}

// lostWAL reports whether the process died while it served the database and the WAL that
// it left is gone or empty. Then the database is older than the last commit, or somebody
// opened it since and SQLite merged the WAL into it. If it was cut, before or after the process died,
// the database is a mixture of old and new.
func (l local) lostWAL(ctx context.Context, database string) (gone, cut bool, err error) {
	if l.Cut || !l.Serving {
		return false, l.Cut, nil
	}
	fi, err := os.Lstat(database + "-wal")
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0 { // SQLite can leave it empty once it is copied into the database
		return true, false, nil
	}
	if err != nil {
		return false, false, err
	}
	there, err := stagedIsThere(ctx, database)
	return false, !there && err == nil, err
}

// asideName is a new name for a database that is moved aside.
func asideName(path string, epoch int64, now time.Time) string {
	return fmt.Sprintf("%s.epoch-%d-%s", path, epoch, now.UTC().Format("20060102T150405.000Z"))
}

// move is the renaming of a file or folder, which need not be there.
type move struct{ from, to string }

// movesAside are the moves of a database and SQLite's files beside it. The database, which
// comes last, must not be open.
func movesAside(path, to string) (all []move) {
	for _, suffix := range []string{"-journal", "-wal", "-shm", ""} {
		all = append(all, move{path + suffix, to + suffix})
	}
	return all
}

// moveAll renames what is there of the files of a folder.
func moveAll(all []move) error {
	for _, m := range all {
		if err := os.Rename(m.from, m.to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("move old database aside: %w", err)
		}
	}
	return syncDirectory(filepath.Dir(all[0].from))
}

// moveAside renames a database that is worth nothing, or what is left of one.
func moveAside(path string, epoch int64, now time.Time) error {
	return moveAll(movesAside(path, asideName(path, epoch, now)))
}

// litestreamPath is the stage: the folder beside a database for files that Litestream has
// yet to upload.
func litestreamPath(database string) string {
	dir, name := filepath.Split(database)
	return filepath.Join(dir, "."+name+litestream.MetaDirSuffix)
}

// replicatedTo is the last transaction in the stage; 0 if there is none.
func replicatedTo(database string) (ltx.TXID, error) {
	entries, err := os.ReadDir(filepath.Join(litestreamPath(database), "ltx", "0"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var last ltx.TXID
	for _, e := range entries {
		if _, to, err := ltx.ParseFilename(e.Name()); err == nil { // else the file is half written
			last = max(last, to)
		}
	}
	return last, err
}
