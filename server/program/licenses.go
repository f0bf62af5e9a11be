package program

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
)

// notices are the licences of everything in the binary and the page.
//
//go:generate go -C ../.. run .ci/licenses.go
//go:embed licenses.txt
var notices string

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
	_, err := io.WriteString(env.Out, notices)
	return err
}
