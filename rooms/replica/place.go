package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/superfly/ltx"
)

const (
	ownerName        = "owner.json"
	generationPrefix = "gen-"
)

// errChanged: owner.json has changed since it was read, so it was not written.
var errChanged = errors.New("the lease is not as it was left")

// errNoOwner: there is no owner.json.
var errNoOwner = errors.New("there is no owner")

// place is the storage of a replica.
type place interface {
	// readOwner returns owner.json, its version, and its age by the clock of the place; a
	// negative age is unknown. It fails with [errNoOwner] if there is none.
	readOwner(ctx context.Context) (b []byte, version string, age time.Duration, err error)
	// writeOwner replaces owner.json if it has that version ("" = none) and returns the
	// new version; else it writes nothing and fails with [errChanged].
	writeOwner(ctx context.Context, b []byte, version string) (string, error)
	// probe fails if the place ignores writeOwner's condition. b is what was written
	// last.
	probe(ctx context.Context, b []byte) error
	// generations lists the generations there, ascending; some may be empty.
	generations(ctx context.Context) ([]int64, error)
	// client reaches a generation. Generation 0 is the place itself, where the litestream
	// command, run beside a server without a replica, puts its files.
	client(generation int64) (litestream.ReplicaClient, error)
	// close releases what the place holds.
	close() error
}

func (l location) open(ctx context.Context, lock bool) (place, error) {
	if l.scheme == "file" {
		d, err := openDirectory(l.dir, lock)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	b, err := openBucket(ctx, l)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// owner is the content of owner.json.
type owner struct {
	Replica  string `json:"replica"`  // made once, for the life of the replica
	Epoch    int64  `json:"epoch"`    // never falls
	Owner    string `json:"owner"`    // for people: host and process
	Machine  string `json:"machine"`  // of Config
	Instance string `json:"instance"` // of the process that wrote it
	Serial   int64  `json:"serial"`   // counts the instance's writes, so that no two are alike
	TTLMs    int64  `json:"ttl_ms"`
	Expires  int64  `json:"expires"` // Unix ms by the owner's clock; 0 = released
	// Begun: there is a generation, or there was one. Until then nobody was served, so
	// nothing can be lost.
	Begun bool `json:"begun"`
}

func (o owner) ttl() time.Duration { return time.Duration(o.TTLMs) * time.Millisecond }

func (o owner) encode() ([]byte, error) {
	b, err := json.Marshal(o)
	return append(b, '\n'), err
}

func decodeOwner(b []byte) (owner, error) {
	var o owner
	if err := json.Unmarshal(b, &o); err != nil {
		return owner{}, fmt.Errorf("%s is damaged: %w", ownerName, err)
	}
	if o.Epoch < 1 || o.Replica == "" || o.TTLMs < 0 {
		return owner{}, fmt.Errorf("%s is not one of Parlor's", ownerName)
	}
	return o, nil
}

// generation names a generation's folder.
func generation(n int64) string { return generationPrefix + strconv.FormatInt(n, 10) }

// parseGeneration is the reverse of generation; false for other names.
func parseGeneration(name string) (int64, bool) {
	digits, ok := strings.CutPrefix(name, generationPrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n > 0 && generation(n) == name
}

// newest finds the newest generation that can be restored, and its last transaction;
// false if there is none.
func newest(ctx context.Context, p place) (n int64, last ltx.TXID, found bool, err error) {
	all, err := p.generations(ctx)
	if err != nil {
		return 0, 0, false, err
	}
	for _, n := range slices.Backward(append([]int64{0}, all...)) {
		c, err := p.client(n)
		if err != nil {
			return 0, 0, false, err
		}
		last, err := lastTXID(ctx, c)
		if err != nil {
			return 0, 0, false, fmt.Errorf("list generation %d: %w", n, err)
		}
		if last > 0 {
			return n, last, true, nil
		}
	}
	return 0, 0, false, nil
}

// lastTXID is the last transaction in the generation; 0 if it is empty. Level 0 has the
// newest files, and always keeps the last one.
func lastTXID(ctx context.Context, c litestream.ReplicaClient) (ltx.TXID, error) {
	var last ltx.TXID
	for level := range litestream.SnapshotLevel + 1 {
		files, err := c.LTXFiles(ctx, level, 0, false)
		if err != nil {
			return 0, err
		}
		for files.Next() {
			last = max(last, files.Item().MaxTXID)
		}
		if err := files.Close(); err != nil {
			return 0, err
		}
		if last > 0 {
			break
		}
	}
	return last, nil
}
