package program

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
)

// notices are the licences of everything in the binary and the page, gzipped.
//
//go:generate go -C ../.. run .ci/licenses.go
//go:embed licenses.txt.gz
var notices []byte

const licensesUsage = `Show the licences of all that is in this program and its page.

  parlor licenses
`

// licenses prints the notices.
func licenses(_ context.Context, env Environment) error {
	f := flag.NewFlagSet("parlor licenses", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(f.Output(), licensesUsage) }
	if err := parse(f, env); err != nil {
		return err
	}
	text, err := gzip.NewReader(bytes.NewReader(notices))
	if err != nil {
		return err
	}
	_, err = io.Copy(env.Out, text)
	return err
}
