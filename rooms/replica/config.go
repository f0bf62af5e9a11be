package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// Config is how a database is replicated.
type Config struct {
	// URL is s3://BUCKET/PATH or file:///PATH. An s3 URL can have the parameters
	// endpoint, region, forcePathStyle, and Litestream's others. Credentials come from
	// the places that the AWS tools use, never from the URL.
	URL string
	// ExpectReplica makes it an error if the replica is empty.
	ExpectReplica bool
	// Adopt tells that the database on this machine is the right one, and begins a new
	// generation with it: for a start that finds a newer database on the replica, or a
	// replica that lost its data, or cannot tell which is newer. Without a database here,
	// and with an empty replica, it begins with an empty database.
	Adopt bool
	// LeaseTTL is the time without a renewal after which others may take the lease; 0 is
	// 30 s. The clocks of S3 servers tell whole seconds, so others wait one second more.
	LeaseTTL time.Duration
	// Patience is how long a holder that had to stop writing keeps trying to renew the
	// lease. If it succeeds before another takes the lease, it goes on. 0: the lease is
	// lost at once.
	Patience time.Duration
	// Machine identifies this machine. A process with the same value may take the lease
	// at once. "" derives it from the boot, a random value beside the database, and the
	// database's place on the disk; only tests need another.
	Machine string
	// SyncInterval is the shortest time between uploads; 0 is one second.
	SyncInterval time.Duration
	// CheckInterval is how often the replica is checked for all that was uploaded, while
	// there are uploads. 0 is a second for a directory, and a minute for S3, where a
	// check costs ten requests.
	CheckInterval time.Duration
	// SnapshotRetention is how far back a generation can be restored; 0 is a week.
	SnapshotRetention time.Duration
	// Retention is the age at which an earlier generation is deleted; 0 is 30 days. The
	// newest two always stay.
	Retention time.Duration
	// ReadEpoch, if given, reads the epoch of the database at path, so that epochs do not
	// fall when the database moves to a new replica.
	ReadEpoch func(ctx context.Context, path string) (int64, error)
	// ReadSeq, if given, reads the seq of the newest event from the database file at path
	// alone, and leaves nothing beside it. Without it a database that lost its WAL counts
	// as older than the replica.
	ReadSeq func(ctx context.Context, path string) (int64, error)
	// Sound, if given, fails if the database file at path, which has no WAL, is not whole.
	// It is asked before such a database is taken for newer than the replica, and leaves
	// nothing beside the file.
	Sound func(ctx context.Context, path string) error
	// OnEpoch, if given, is called on a goroutine of the replica's when the epoch grows
	// while the database is served, because a generation could not go on. The database
	// must store the epoch. It may be called again with the same epoch.
	OnEpoch func(ctx context.Context, epoch int64) error
	// OnLost is called once, on a goroutine of the replica's, when the lease is lost. The
	// server must stop serving, because another may serve. It must not wait for Close.
	OnLost func(error)
	Log    *slog.Logger // nil = none
}

// The defaults of Config.
const (
	DefaultLeaseTTL          = 30 * time.Second
	DefaultSyncInterval      = time.Second
	DefaultDirectoryCheck    = time.Second
	DefaultBucketCheck       = time.Minute
	DefaultSnapshotRetention = 7 * 24 * time.Hour
	DefaultRetention         = 30 * 24 * time.Hour
)

func (c *Config) fill(scheme string) error {
	check := DefaultDirectoryCheck
	if scheme == "s3" {
		check = DefaultBucketCheck
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		usual time.Duration
	}{
		{"lease time", &c.LeaseTTL, DefaultLeaseTTL},
		{"sync interval", &c.SyncInterval, DefaultSyncInterval},
		{"check interval", &c.CheckInterval, check},
		{"snapshot retention", &c.SnapshotRetention, DefaultSnapshotRetention},
		{"retention", &c.Retention, DefaultRetention},
		{"patience", &c.Patience, 0},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s %v is negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	if c.LeaseTTL < time.Second {
		return fmt.Errorf("lease time %v is shorter than a second, which is what S3's clocks can tell", c.LeaseTTL)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.OnLost == nil {
		c.OnLost = func(error) {}
	}
	return nil
}

// location is a parsed replica URL.
type location struct {
	scheme string // s3 or file
	dir    string // the directory, of a file URL
	raw    string // an s3 URL as Litestream takes it
	name   string // for people and logs, without secrets
}

// parameters are the parameters that an s3 URL may have. Litestream ignores unknown ones,
// and so would ignore a misspelt one. skipVerify is left out on purpose.
func parameters() []string {
	return []string{
		"endpoint", "region", "forcePathStyle", "force-path-style",
		"signPayload", "sign-payload", "signAcceptEncoding", "sign-accept-encoding",
		"requireContentMD5", "require-content-md5", "putObjectContentMD5", "put-object-content-md5",
		"concurrency", "partSize", "part-size", "storageClass", "storage-class",
		"sseCustomerAlgorithm", "sse-customer-algorithm", "sseCustomerKey", "sse-customer-key",
		"sseCustomerKeyMD5", "sse-customer-key-md5", "sseKmsKeyId", "sse-kms-key-id",
	}
}

// parse reads a replica's URL. Its errors never repeat the URL's parameters, because one
// may be a key.
func parse(raw string) (location, error) {
	if raw == "" {
		return location{}, errors.New("no replica URL given")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return location{}, errors.New("replica URL cannot be parsed: it should be s3://BUCKET/PATH or file:///PATH")
	}
	if u.User != nil {
		return location{}, errors.New("replica URL has credentials in it: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
	}
	if u.Fragment != "" {
		return location{}, errors.New("replica URL has a fragment: write # in a path as %23")
	}
	switch u.Scheme {
	case "file":
		return parseFile(u)
	case "s3":
		return parseS3(u)
	}
	return location{}, fmt.Errorf("replica URL has the scheme %q: it should be s3 or file", u.Scheme)
}

func parseFile(u *url.URL) (location, error) {
	if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
		return location{}, errors.New("file replica needs an absolute path: file:///PATH")
	}
	if u.RawQuery != "" {
		return location{}, errors.New("file replica takes no parameters: write ? in a path as %3F")
	}
	dir := path.Clean(u.Path)
	if dir == "/" {
		return location{}, errors.New("file replica needs a directory of its own")
	}
	return location{scheme: "file", dir: dir, name: (&url.URL{Scheme: "file", Path: dir}).String()}, nil
}

func parseS3(u *url.URL) (location, error) {
	if u.Host == "" {
		return location{}, errors.New("s3 replica needs a bucket: s3://BUCKET/PATH")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return location{}, errors.New("parameters of the replica URL cannot be parsed")
	}
	known := parameters()
	shown := url.Values{}
	for name, values := range query {
		if !slices.Contains(known, name) {
			return location{}, fmt.Errorf("replica URL has the parameter %q, which is none of %s", name, strings.Join(known, ", "))
		}
		if name == "endpoint" || name == "region" {
			shown[name] = values
		}
	}
	if e, err := url.Parse(query.Get("endpoint")); err == nil && e.User != nil {
		return location{}, errors.New("endpoint of the replica URL has credentials in it")
	}
	key := strings.Trim(path.Clean("/"+u.Path), "/")
	full := url.URL{Scheme: "s3", Host: u.Host, Path: "/" + key}
	full.RawQuery = query.Encode()
	l := location{scheme: "s3", raw: full.String()}
	full.RawQuery = shown.Encode()
	l.name = full.String()
	return l, nil
}
