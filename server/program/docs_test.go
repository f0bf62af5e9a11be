package program

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/rooms/log"
)

// repository is the repository's folder, relative to this package's.
const repository = "../.."

// TestTheDocumentsNameWhatExists checks every path and Go name in the documents for
// developers of Parlor against the repository.
func TestTheDocumentsNameWhatExists(t *testing.T) {
	var (
		block  = regexp.MustCompile("(?s)```.*?```")
		quoted = regexp.MustCompile("`([^`\n]+)`")
		path   = regexp.MustCompile(`^\.?[a-z][\w.-]*(/[\w.-]+)*$`)
		name   = regexp.MustCompile(`^[A-Za-z]\w*(\.[A-Za-z]\w*)*$`)
	)
	known := declared(t)
	for _, file := range []string{"docs/ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join(repository, file))
		require.NoError(t, err)
		checked := 0
		for _, m := range quoted.FindAllSubmatch(block.ReplaceAll(text, nil), -1) {
			word := string(m[1])
			switch {
			case elsewhere(word):
				continue
			case known[word]:
			case path.MatchString(word) || name.MatchString(word):
				_, err := os.Stat(filepath.Join(repository, filepath.FromSlash(word)))
				require.NoError(t, err, "%s names `%s`, which is neither a path nor a Go name here", file, word)
			default:
				continue // a command, a route
			}
			checked++
		}
		require.Greater(t, checked, 10, file)
	}
}

// TestTheReadmeNamesTheEventsThatLiveKitDoesNotSend compares its section on webhooks with
// the table of event types.
func TestTheReadmeNamesTheEventsThatLiveKitDoesNotSend(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository, "README.md"))
	require.NoError(t, err)
	_, list, found := strings.Cut(string(text), "Beyond LiveKit's events there are ")
	require.True(t, found)
	list, _, _ = strings.Cut(list, ": an endpoint gets them")
	var told, there []string
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(list, -1) {
		told = append(told, m[1])
	}
	for _, typ := range log.Types() {
		if typ.For == log.Askers {
			there = append(there, typ.Name)
		}
	}
	require.Equal(t, there, told)
}

// elsewhere reports whether a word in code style names something other than the
// repository's files and Go code.
func elsewhere(word string) bool {
	switch word {
	case "testing/synctest", "sendmmsg", "room_finished", "webhook.after_replication":
		return true
	}
	return false
}

// declared is every name that this repository's Go files declare: N, T.N for methods and
// fields, and p.N with the package's name.
func declared(t *testing.T) map[string]bool {
	known := map[string]bool{}
	require.NoError(t, filepath.WalkDir(repository, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(gotoken.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		add := func(name string) {
			known[name] = true
			known[parsed.Name.Name+"."+name] = true
		}
		for _, decl := range parsed.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil {
					add(decl.Name.Name)
				} else {
					add(receiver(decl.Recv.List[0].Type) + "." + decl.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					addSpec(spec, add)
				}
			}
		}
		return nil
	}))
	return known
}

func addSpec(spec ast.Spec, add func(string)) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, n := range spec.Names {
			add(n.Name)
		}
	case *ast.TypeSpec:
		add(spec.Name.Name)
		var members *ast.FieldList
		switch kind := spec.Type.(type) {
		case *ast.StructType:
			members = kind.Fields
		case *ast.InterfaceType:
			members = kind.Methods
		default:
			return
		}
		for _, member := range members.List {
			for _, n := range member.Names {
				add(spec.Name.Name + "." + n.Name)
			}
		}
	}
}

// receiver is the name of the type in a method's receiver.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
