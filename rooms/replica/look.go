package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Sight describes a replica.
type Sight struct {
	URL        string    // no secrets in it
	Owner      string    // host and process that last wrote the lease; "" = it was never taken
	Epoch      int64     // of the lease
	Expires    time.Time // when others may take the lease, by its owner's clock; zero = it was released
	Generation int64     // the newest one; 0 = there is none
	// Ahead is how far this machine's clock is ahead of the replica's, to a second or so.
	// Clocked tells whether the replica's service gave its time.
	Ahead   time.Duration
	Clocked bool
}

// Look describes the replica at url. It takes no lease and writes nothing.
func Look(ctx context.Context, url string) (Sight, error) {
	l, err := parse(url)
	if err != nil {
		return Sight{}, fmt.Errorf("look at replica: %w", err)
	}
	s, err := look(ctx, l)
	if err != nil {
		return s, fmt.Errorf("look at replica %s: %w", l.name, err)
	}
	return s, nil
}

func look(ctx context.Context, l location) (s Sight, err error) {
	s.URL = l.name
	if l.scheme == "file" {
		if _, err := os.Stat(l.dir); err != nil {
			return s, err
		}
	}
	p, err := l.open(ctx, false)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if b, ok := p.(*bucket); ok {
		if s.Ahead, s.Clocked, err = b.ahead(ctx); err != nil {
			return s, err
		}
	}
	body, _, _, err := p.readOwner(ctx)
	if err != nil && !errors.Is(err, errNoOwner) {
		return s, err
	}
	if err == nil {
		o, err := decodeOwner(body)
		if err != nil {
			return s, err
		}
		s.Owner, s.Epoch = o.Owner, o.Epoch
		if o.Expires != 0 {
			s.Expires = time.UnixMilli(o.Expires)
		}
	}
	all, err := p.generations(ctx)
	if len(all) > 0 {
		s.Generation = all[len(all)-1]
	}
	return s, err
}

// ahead compares this machine's clock with that of the bucket's service, which tells
// whole seconds.
func (b *bucket) ahead(ctx context.Context) (time.Duration, bool, error) {
	out, err := b.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &b.prefix, MaxKeys: aws.Int32(1)})
	if err != nil {
		return 0, false, fmt.Errorf("list the bucket: %w", err)
	}
	theirs, ok := middleware.GetServerTime(out.ResultMetadata)
	ours, had := middleware.GetResponseAt(out.ResultMetadata)
	return ours.Sub(theirs), ok && had, nil
}
