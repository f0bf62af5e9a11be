package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Sources are the sources of the configuration; later ones override earlier ones.
type Sources struct {
	File    string    // path; "" = $PARLOR_CONFIG, or no file if that is not set
	Environ []string  // as of os.Environ
	Flags   []Setting // of the command line
	// MakeKeys lets a server that has a domain and no API keys make one, beside its database.
	// Without it only a key that was made before is read.
	MakeKeys bool
}

// Setting sets one key from outside a file.
type Setting struct {
	Path  string // as in [Key]
	Value string // YAML; a list may be written with commas
	From  string // the source, for errors: "--port"
}

// Problem is a fault of the configuration.
type Problem struct {
	From string // file, variable or flag; "" = the configuration as a whole
	Line int    // 0 = no line
	Path string
	Msg  string
}

func (p *Problem) Error() string {
	var b strings.Builder
	if p.From != "" {
		b.WriteString(p.From)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Msg)
	return b.String()
}

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// Load reads, merges and checks the configuration. The error joins every [*Problem], so
// that all can be corrected at once. The warnings tell of settings that have no effect or
// are unwise.
func Load(s Sources) (c *Config, warnings []string, err error) {
	l := &loader{config: Default(), keys: newTable()}
	l.file(s)
	l.environment(s.Environ)
	for _, f := range s.Flags {
		l.setting(f)
	}
	if len(l.problems) == 0 {
		l.keyFile()
		l.ownKeys(s.MakeKeys)
		l.finish()
		l.validate()
	}
	if len(l.problems) > 0 {
		return nil, l.warnings, errors.Join(l.problems...)
	}
	return l.config, l.warnings, nil
}

// loader applies sources to a Config and collects their problems.
type loader struct {
	config   *Config
	keys     *table
	given    []string // paths that a source set
	problems []error
	warnings []string

	from string // the source being read
}

func (l *loader) problem(n *yaml.Node, path, format string, args ...any) {
	p := &Problem{From: l.from, Path: path, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		p.Line = n.Line
	}
	l.problems = append(l.problems, p)
}

func (l *loader) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(l.warnings, w) {
		l.warnings = append(l.warnings, w)
	}
}

func (l *loader) wasGiven(path string) bool { return slices.Contains(l.given, path) }

func (l *loader) file(s Sources) {
	name := s.File
	if name == "" {
		name = lookup(s.Environ, "PARLOR_CONFIG")
	}
	if name == "" {
		return
	}
	l.from = name
	body, err := readBounded(name)
	if err != nil {
		l.problem(nil, "", "%v", err)
		return
	}
	l.document(body)
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", errors.Unwrap(err))
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot be read: %w", err)
	case len(body) > maxFile:
		return nil, fmt.Errorf("is bigger than %d bytes", maxFile)
	}
	return body, nil
}

// document applies a YAML document.
func (l *loader) document(body []byte) {
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) { // io.EOF means an empty document
			l.problem(nil, "", "is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		l.problem(nil, "", "has more than one YAML document")
		return
	}
	if len(doc.Content) == 1 {
		l.section(doc.Content[0], reflect.ValueOf(l.config).Elem(), "")
	}
}

// section applies a mapping to a struct.
func (l *loader) section(n *yaml.Node, v reflect.Value, path string) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		l.problem(n, path, "must be a section with keys, not a single value")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		at := join(path, name.Value)
		if name.Value == "<<" && name.Tag == "!!merge" {
			l.problem(name, at, "merge keys are not supported; write the keys out")
			continue
		}
		if seen[name.Value] {
			l.problem(name, at, "is given twice")
			continue
		}
		seen[name.Value] = true
		l.key(name, value, v, at)
	}
}

// key applies one key to the struct v.
func (l *loader) key(name, value *yaml.Node, v reflect.Value, path string) {
	field, isField := fieldByTag(v, name.Value)
	k, known := l.keys.find(stripIndexes(path))
	switch {
	case isField && isSection(field.Type()):
		l.section(value, field, path)
	case !known:
		l.unknown(name, path)
	case isNull(resolve(value)):
		// A key without a value counts as absent.
	case !isField:
		l.warnIgnored(k)
	default:
		if k.Effect == Renamed {
			l.warn("%s: %s", path, k.Doc)
		}
		l.given = append(l.given, path)
		l.value(resolve(value), field, path)
	}
}

func (l *loader) unknown(name *yaml.Node, path string) {
	hint := ""
	if near := l.keys.nearest(stripIndexes(path)); near != "" {
		hint = "; did you mean " + near + "?"
	}
	l.problem(name, path, "unknown key%s", hint)
}

func (l *loader) warnIgnored(k Key) {
	switch k.Effect {
	case Cluster:
		l.warn("%s does nothing here: %s", k.Path, k.Doc)
	case Tuning:
		l.warn("%s does nothing here, Parlor does this its own way: %s", k.Path, k.Doc)
	default:
		l.warn("%s does nothing here, Parlor does not have this: %s", k.Path, k.Doc)
	}
}

// value sets a field that is not a section.
func (l *loader) value(n *yaml.Node, field reflect.Value, path string) {
	if field.Kind() == reflect.Slice && isSection(field.Type().Elem()) {
		l.list(n, field, path)
		return
	}
	fresh := reflect.New(field.Type()) // so that a map replaces the old one, and an error sets nothing
	if err := n.Decode(fresh.Interface()); err != nil {
		l.problem(n, path, "%s", describe(err, field.Type()))
		return
	}
	field.Set(fresh.Elem())
}

// list sets a list of sections.
func (l *loader) list(n *yaml.Node, field reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		l.problem(n, path, "must be a list")
		return
	}
	items := reflect.MakeSlice(field.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		l.section(item, items.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	field.Set(items)
}

// describe says what a value must be. It does not repeat the value, which may be a
// secret.
func describe(err error, t reflect.Type) string {
	if _, ok := errors.AsType[*yaml.TypeError](err); !ok {
		return err.Error() // an error of this package's own types
	}
	switch t.Kind() {
	case reflect.Bool:
		return "must be true or false"
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint8:
		return fmt.Sprintf("must be a whole number (%s)", t.Kind())
	case reflect.Float64:
		return "must be a number"
	case reflect.String:
		return "must be a text"
	case reflect.Slice:
		return "must be a list of texts"
	case reflect.Map:
		return "must be a mapping, one `name: value` a line"
	}
	return "has a value of the wrong type"
}

// resolve follows an alias to its node.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias // an alias never points to an alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// stripIndexes turns "a[0].b" into the table's "a[].b".
func stripIndexes(path string) string {
	for {
		open := strings.IndexByte(path, '[')
		for open >= 0 && strings.HasPrefix(path[open:], "[]") {
			next := strings.IndexByte(path[open+2:], '[')
			if next < 0 {
				return path
			}
			open += 2 + next
		}
		if open < 0 {
			return path
		}
		end := strings.IndexByte(path[open:], ']')
		if end < 0 {
			return path
		}
		path = path[:open+1] + path[open+end:]
	}
}

func fieldByTag(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// isSection reports whether t is a struct whose fields are keys, and not a value that
// decodes itself.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]())
}
