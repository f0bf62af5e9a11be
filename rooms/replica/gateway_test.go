package replica

import (
	"context"
	"testing"
	"time"

	"parlor/rooms/replica/s3test"
)

// s3Server is started by the first test that needs it, and stopped by TestMain.
var s3Server s3test.Server

// s3URL is a replica for the test alone on the S3 server.
func s3URL(t testing.TB) string { return s3test.URL(t, s3Server.Address(t)) }

func newProxy(t testing.TB) *s3test.Proxy { return s3test.NewProxy(t, s3Server.Address(t)) }

// objects lists the objects of the test's replica under a folder.
func objects(t testing.TB, folder string) []string { return s3Server.Objects(t, folder) }

// within is the test's context with a timeout.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
