package program

import (
	"go/ast"
	"go/build"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// rule says what the folders of one part of the program may import. A part is a folder
// with all below it, except for parts of their own.
type rule struct {
	part string
	// may names the other parts whose packages may be imported.
	may []string
	// never lists prefixes of forbidden import paths.
	never []string
}

func houseRules() []rule {
	const (
		http, sql, webSocket, pion = "net/http", "database/sql", "github.com/coder/websocket", "github.com/pion/"
		rpc, psrpc, redis          = "github.com/livekit/protocol/rpc", "github.com/livekit/psrpc", "github.com/redis/"
	)
	edge := []string{"rooms", "rooms/goroutines", "rooms/guid", "rooms/log", "rooms/mailbox", "media", "media/downlink"}
	return []rule{
		{".", nil, []string{sql, rpc, psrpc, redis, "github.com"}}, // except in server/program
		{"server/program", append(edge, "webhooks", "rooms/sqlite", "rooms/replica", "migrations", "static"), []string{sql, rpc, psrpc, redis}},
		{"rooms/goroutines", nil, []string{http, sql, webSocket, pion, rpc, psrpc, redis}},
		{"rooms/guid", nil, []string{http, sql, webSocket, pion, rpc, psrpc, redis}},
		{"rooms/lockfile", nil, []string{http, sql, webSocket, pion, rpc, psrpc, redis}},
		{"rooms/mailbox", nil, []string{http, sql, webSocket, pion, rpc, psrpc, redis}},
		{"rooms/outage", nil, []string{http, sql, webSocket, pion, rpc, psrpc, redis}},
		{"rooms/log", []string{"rooms/guid"}, []string{http, sql, webSocket, pion, rpc, psrpc, redis}},
		{"rooms", []string{"rooms/goroutines", "rooms/guid", "rooms/log", "rooms/mailbox", "rooms/outage"}, []string{http, sql, webSocket, pion, rpc, psrpc, redis}},
		{"rooms/sqlite", []string{"rooms", "rooms/guid", "rooms/lockfile", "rooms/log", "rooms/mailbox", "migrations"}, []string{http, webSocket, pion}},
		{"rooms/replica", []string{"rooms/lockfile"}, []string{webSocket, pion}}, // Litestream's S3 client speaks HTTP
		{"migrations", nil, []string{http, webSocket, pion}},
		{"media", []string{"rooms", "rooms/mailbox", "media/downlink", "media/srtpout"}, []string{http, sql, webSocket, rpc, psrpc, redis}},
		// It knows a stream as what package forward makes of it, and not that package.
		{"media/downlink", []string{"media/srtpout"}, []string{http, sql, webSocket, rpc, psrpc, redis}},
		{"media/srtpout", nil, []string{http, sql, webSocket, rpc, psrpc, redis}},
		{"webhooks", []string{"rooms/log", "rooms/outage"}, []string{sql, webSocket, pion}}, // the domain is not included
		{"static", nil, []string{sql, webSocket, pion}},
		{"server", edge, []string{sql, pion, rpc, psrpc, redis}},
		// It signs requests like webhooks.
		{"server/authorize", append(edge, "webhooks"), []string{sql, pion, webSocket, rpc, psrpc, redis}},
		// They show the state of the sender of webhooks in its own types.
		{"server/api", append(edge, "webhooks"), []string{sql, pion, rpc, psrpc, redis}},
		{"server/events", []string{"rooms/log"}, []string{sql, pion, rpc, psrpc, redis}},
	}
}

// TestImportsRunOneWay reads the source of every package in this process, so that the test
// is run again when a file changes. The test cache does not notice files that a subprocess
// reads.
func TestImportsRunOneWay(t *testing.T) {
	checked := map[string]bool{}
	for dir, imports := range packages(t) {
		r := ruleOf(dir)
		checked[r.part] = true
		for _, imported := range imports {
			for _, banned := range r.never {
				require.False(t, imported == banned || strings.HasPrefix(imported, banned+"/") || (strings.HasSuffix(banned, "/") && strings.HasPrefix(imported, banned)),
					"%s must not import %s", dir, imported)
			}
			if own, ok := strings.CutPrefix(imported, "parlor/"); ok {
				part := ruleOf(own).part
				if part == "server/program" && part != r.part {
					require.Equal(t, ".", r.part, "%s imports the program", dir)
					continue
				}
				require.True(t, part == r.part || slices.Contains(r.may, part) || (strings.HasPrefix(r.part, "server") && strings.HasPrefix(part, "server")),
					"%s must not import %s", dir, imported)
			}
		}
	}
	for _, part := range []string{".", "server/program", "rooms", "rooms/log", "rooms/sqlite", "media", "media/downlink", "webhooks", "server", "server/events", "static", "migrations"} {
		require.True(t, checked[part], "no package was found in %s", part)
	}
}

// Templates call methods by name, so the linker has to keep every exported method of every
// type: one template makes the binary a quarter larger.
func TestNothingKeepsDeadMethods(t *testing.T) {
	for dir, imports := range packages(t) {
		for _, banned := range []string{"text/template", "html/template"} {
			require.NotContains(t, imports, banned, dir)
		}
	}
}

// TestGoroutinesHaveAnOwner that waits for them: they are started by a wait group, whose
// owner waits for it, except in the functions below, which have their own ways to wait.
func TestGoroutinesHaveAnOwner(t *testing.T) {
	waits := map[string]string{
		"main.go main":                        "ends with the process",
		"media/peer.go NewPeer":               "Engine.Close waits for every peer",
		"rooms/goroutines/goroutines.go Go":   "Group.Wait",
		"rooms/replica/guarded.go while":      "the function that it returns",
		"rooms/replica/lease.go start":        "lease.stop",
		"rooms/replica/merge.go beginMerging": "endMerging",
		"rooms/replica/replica.go start":      "Replica.Close",
		"rooms/sqlite/store.go start":         "Store.Close",
		"server/acme/acme.go order":           "the function itself for a second, then autocert's bound",
	}
	found := map[string]bool{}
	for dir := range packages(t) {
		files, err := filepath.Glob(filepath.Join(repository, filepath.FromSlash(dir), "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(gotoken.NewFileSet(), file, nil, 0)
			require.NoError(t, err)
			name, err := filepath.Rel(repository, file)
			require.NoError(t, err)
			for _, d := range parsed.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				ast.Inspect(f, func(n ast.Node) bool {
					if _, ok := n.(*ast.GoStmt); ok {
						where := filepath.ToSlash(name) + " " + f.Name.Name
						found[where] = true
						require.Contains(t, waits, where, "a goroutine that nobody waits for")
					}
					return true
				})
			}
		}
	}
	require.Len(t, found, len(waits))
}

// TestErrorsHaveOneKeyInTheLog, by which an operator finds them.
func TestErrorsHaveOneKeyInTheLog(t *testing.T) {
	for dir := range packages(t) {
		files, err := filepath.Glob(filepath.Join(repository, filepath.FromSlash(dir), "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			if !strings.HasSuffix(file, "_test.go") {
				require.NotContains(t, string(text), `"err", `, "%s: the key is error", file)
			}
		}
	}
}

// ruleOf is the rule of the innermost part that contains dir.
func ruleOf(dir string) rule {
	var best rule
	for _, r := range houseRules() {
		inside := r.part == "." || dir == r.part || strings.HasPrefix(dir, r.part+"/")
		if inside && len(r.part) >= len(best.part) {
			best = r
		}
	}
	return best
}

// packages are the imports of every folder of this module, without tests.
func packages(t *testing.T) map[string][]string {
	found := map[string][]string{}
	require.NoError(t, filepath.WalkDir(repository, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		name := d.Name()
		if dir != repository {
			if name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				return fs.SkipDir // another module
			}
		}
		p, err := build.ImportDir(dir, 0)
		if err != nil {
			return nil // no package, or only tests
		}
		rel, err := filepath.Rel(repository, dir)
		found[filepath.ToSlash(rel)] = p.Imports
		return err
	}))
	return found
}
