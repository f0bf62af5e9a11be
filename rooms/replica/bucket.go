package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/benbjohnson/litestream"
	litestreams3 "github.com/benbjohnson/litestream/s3"
)

// bucket is a replica on S3 or a compatible service.
type bucket struct {
	location location
	name     string // the bucket's
	prefix   string // without slashes at its ends; may be empty
	region   string
	s3       *s3.Client
}

func openBucket(ctx context.Context, l location) (*bucket, error) {
	c, err := l.s3Client()
	if err != nil {
		return nil, err
	}
	b := &bucket{location: l, name: c.Bucket, prefix: c.Path, region: c.Region}
	options := []func(*config.LoadOptions) error{config.WithRetryMaxAttempts(3)}
	if c.AccessKeyID != "" && c.SecretAccessKey != "" {
		options = append(options, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("configure S3: %w", err)
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return nil, fmt.Errorf("there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "+
			"or AWS_PROFILE to a profile that has them, or give the machine a role: %w", err)
	}
	if b.region != "" {
		cfg.Region = b.region
	}
	known := cfg.Region != ""
	if !known {
		cfg.Region = litestreams3.DefaultRegion
	}
	b.connect(cfg, c)
	if !known && c.Endpoint == "" {
		if cfg.Region, err = b.findRegion(ctx); err != nil {
			return nil, err
		}
		b.connect(cfg, c)
	}
	return b, nil
}

func (b *bucket) connect(cfg aws.Config, c *litestreams3.ReplicaClient) {
	b.region = cfg.Region
	b.s3 = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = c.ForcePathStyle
		o.UseARNRegion = true
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
			// Many services other than AWS do not know trailing checksums.
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		}
	})
}

// findRegion asks AWS for the bucket's region.
func (b *bucket) findRegion(ctx context.Context) (string, error) {
	out, err := b.s3.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: &b.name})
	if err != nil {
		return "", fmt.Errorf("find the bucket's region (or give it: ?region=…): %w", err)
	}
	if out.LocationConstraint == "" {
		return litestreams3.DefaultRegion, nil
	}
	return string(out.LocationConstraint), nil
}

// s3Client makes a Litestream client that is not yet connected.
func (l location) s3Client() (*litestreams3.ReplicaClient, error) {
	c, err := litestream.NewReplicaClientFromURL(l.raw)
	if err != nil {
		return nil, fmt.Errorf("replica URL: %w", err)
	}
	s, ok := c.(*litestreams3.ReplicaClient)
	if !ok {
		return nil, fmt.Errorf("replica URL is for %s, not S3", c.Type())
	}
	if os.Getenv("AWS_SESSION_TOKEN") != "" {
		// Litestream would use the key without its session token. Without a key it asks
		// the AWS library, which uses all three.
		s.AccessKeyID, s.SecretAccessKey = "", ""
	}
	return s, nil
}

func (b *bucket) key(name string) *string { return aws.String(path.Join(b.prefix, name)) }

func (b *bucket) readOwner(ctx context.Context) ([]byte, string, time.Duration, error) {
	out, err := b.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: b.key(ownerName)})
	if isMissingKey(err) {
		return nil, "", 0, errNoOwner
	}
	if err != nil {
		return nil, "", 0, fmt.Errorf("read %s: %w", ownerName, err)
	}
	defer out.Body.Close()
	body, err := io.ReadAll(io.LimitReader(out.Body, 1<<16))
	if err != nil {
		return nil, "", 0, fmt.Errorf("read %s: %w", ownerName, err)
	}
	age := time.Duration(-1)
	if now, ok := middleware.GetServerTime(out.ResultMetadata); ok && out.LastModified != nil {
		age = max(0, now.Sub(*out.LastModified))
	}
	return body, aws.ToString(out.ETag), age, nil
}

func (b *bucket) writeOwner(ctx context.Context, body []byte, version string) (string, error) {
	in := &s3.PutObjectInput{
		Bucket: &b.name, Key: b.key(ownerName),
		Body: bytes.NewReader(body), ContentType: aws.String("application/json"),
	}
	if version == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = aws.String(version)
	}
	out, err := b.s3.PutObject(ctx, in)
	switch {
	case err == nil:
		return aws.ToString(out.ETag), nil
	// 409: another conditional write came between. 404: the object was there and is gone.
	case isStatus(err, 412), isStatus(err, 409), version != "" && isMissingKey(err):
		return "", errChanged
	case isStatus(err, 501):
		return "", fmt.Errorf("this S3 service has no conditional writes, which the lease needs: %w", err)
	}
	return "", fmt.Errorf("write %s: %w", ownerName, err)
}

// noVersion is a version that no object has.
const noVersion = `"00000000000000000000000000000000"`

// probe tries writes that must be refused: one because the object exists, and one because it
// has another version. Some services know one of the two conditions. A service that ignores
// a condition writes the bytes that are there already.
func (b *bucket) probe(ctx context.Context, body []byte) error {
	for _, version := range []string{"", noVersion} {
		switch _, err := b.writeOwner(ctx, body, version); {
		case err == nil:
			return errors.New("this S3 service ignores the conditions of conditional writes: two machines could hold the lease at once")
		case !errors.Is(err, errChanged):
			return err
		}
	}
	return nil
}

func (b *bucket) generations(ctx context.Context) ([]int64, error) {
	prefix := path.Join(b.prefix, generationPrefix)
	pages := s3.NewListObjectsV2Paginator(b.s3, &s3.ListObjectsV2Input{
		Bucket: &b.name, Prefix: &prefix, Delimiter: aws.String("/"),
	})
	var all []int64
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list generations: %w", err)
		}
		for _, p := range page.CommonPrefixes {
			if n, ok := parseGeneration(path.Base(strings.TrimSuffix(aws.ToString(p.Prefix), "/"))); ok {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

func (b *bucket) client(n int64) (litestream.ReplicaClient, error) {
	c, err := b.location.s3Client()
	if err != nil {
		return nil, err
	}
	c.Region = b.region
	if n > 0 {
		c.Path = path.Join(c.Path, generation(n))
	}
	return c, nil
}

func (b *bucket) close() error { return nil }

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*awshttp.ResponseError](err)
	return ok && e.HTTPStatusCode() == status
}

// isMissingKey reports whether the object is missing, and not the bucket.
func isMissingKey(err error) bool {
	e, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err)
	return ok && e.ErrorCode() == "NoSuchKey"
}
