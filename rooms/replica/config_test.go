package replica

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for url, want := range map[string]location{
		"file:///var/lib/parlor/replica/":  {scheme: "file", dir: "/var/lib/parlor/replica", name: "file:///var/lib/parlor/replica"},
		"file:///with%20space":             {scheme: "file", dir: "/with space", name: "file:///with%20space"},
		"s3://bucket":                      {scheme: "s3", raw: "s3://bucket/", name: "s3://bucket/"},
		"s3://bucket/a//b/":                {scheme: "s3", raw: "s3://bucket/a/b", name: "s3://bucket/a/b"},
		"s3://b/a?region=x":                {scheme: "s3", raw: "s3://b/a?region=x", name: "s3://b/a?region=x"},
		"s3://b/a?sseCustomerKey=c2VjcmV0": {scheme: "s3", raw: "s3://b/a?sseCustomerKey=c2VjcmV0", name: "s3://b/a"},
		"s3://b/a?endpoint=http://h:1&region=r": {
			scheme: "s3", raw: "s3://b/a?endpoint=http%3A%2F%2Fh%3A1&region=r", name: "s3://b/a?endpoint=http%3A%2F%2Fh%3A1&region=r",
		},
	} {
		l, err := parse(url)
		require.NoError(t, err, url)
		require.Equal(t, want, l, url)
	}
	for url, want := range map[string]string{
		"":                                  "no replica URL",
		"/var/lib":                          "s3 or file",
		"s3:///path":                        "needs a bucket",
		"gs://bucket/path":                  `scheme "gs"`,
		"file://relative/path":              "absolute path",
		"file:///":                          "directory of its own",
		"file:///a?b=c":                     "no parameters",
		"s3://key:secret@bucket/path":       "credentials",
		"s3://b/p?endpoint=http://k:s@h":    "credentials",
		"s3://b/p?endpiont=http://h":        `parameter "endpiont"`,
		"s3://b/p?skipVerify=true":          `parameter "skipVerify"`,
		"s3://b/p#x":                        "fragment",
		"s3://b/p?sseCustomerKey=%zzsecret": "cannot be parsed",
		"\x00secret":                        "cannot be parsed",
	} {
		_, err := parse(url)
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), "secret", url)
	}
	_, err := New(Config{URL: "file:///x", LeaseTTL: time.Millisecond})
	require.ErrorContains(t, err, "shorter than a second")
	_, err = New(Config{URL: "file:///x", Retention: -1})
	require.ErrorContains(t, err, "negative")
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"file:///a", "s3://b/c?endpoint=http://h:1&sseCustomerKey=hidden", "s3://k:hidden@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parse(s)
		if err != nil {
			return
		}
		again, err := parse(l.name)
		require.NoError(t, err, "%q", l.name)
		require.Equal(t, l.name, again.name)
		if l.scheme == "file" {
			require.True(t, filepath.IsAbs(l.dir))
		}
	})
}

func FuzzDecodeOwner(f *testing.F) {
	f.Add([]byte(`{"replica":"x","epoch":3,"owner":"process 1 on h","machine":"m","ttl_ms":30000,"expires":1}`))
	f.Add([]byte(`{"epoch":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOwner(b)
		if err != nil {
			return
		}
		require.Positive(t, o.Epoch)
		encoded, err := o.encode()
		require.NoError(t, err)
		again, err := decodeOwner(encoded)
		require.NoError(t, err)
		require.Equal(t, o, again)
	})
}

func TestGenerationNames(t *testing.T) {
	n, ok := parseGeneration(generation(12))
	require.True(t, ok)
	require.EqualValues(t, 12, n)
	for _, name := range []string{"gen-", "gen-0", "gen--1", "gen-01", "gen-x", "0000", "gen-1.tmp"} {
		_, ok := parseGeneration(name)
		require.False(t, ok, name)
	}
}

// TestConditionsIgnored: a service that accepts every write, whatever its condition,
// cannot hold a lease.
func TestConditionsIgnored(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("ETag", `"x"`)
		case r.URL.Query().Has("list-type"):
			_, _ = io.WriteString(w, `<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>`)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `<Error><Code>NoSuchKey</Code><Message>none</Message></Error>`)
		}
	}))
	defer server.Close()
	r, err := New(Config{URL: "s3://bucket/path?region=us-east-1&endpoint=" + server.URL})
	require.NoError(t, err)
	err = r.Prepare(t.Context(), database(t.TempDir()))
	require.ErrorContains(t, err, "ignores the conditions")
}

func TestPrune(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, url string) {
		var n *node
		for i := range 4 {
			if n != nil {
				n.mustClose(t)
			}
			n = mustOpen(t, t.TempDir(), string(rune('a'+i)), Config{URL: url, Retention: time.Hour})
			n.mustCreate(t, string(rune('a'+i)))
		}
		generations := func() []int64 {
			all, err := n.replica.place.generations(t.Context())
			require.NoError(t, err)
			return all
		}
		require.NoError(t, n.replica.pruneOnce(t.Context(), time.Now()))
		require.Equal(t, []int64{1, 2, 3, 4}, generations())
		require.NoError(t, n.replica.pruneOnce(t.Context(), time.Now().Add(2*time.Hour)))
		require.Equal(t, []int64{3, 4}, generations())
		n.mustClose(t)
	})
}

// TestLocalDamaged: an unreadable file is not overwritten.
func TestLocalDamaged(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(localPath(database(dir)), []byte("{"), 0o644))
	r, err := New(Config{URL: "file://" + filepath.Join(dir, "replica")})
	require.NoError(t, err)
	require.ErrorContains(t, r.Prepare(t.Context(), database(dir)), "is damaged")
	require.NoError(t, r.Close(t.Context()))
	b, err := os.ReadFile(localPath(database(dir)))
	require.NoError(t, err)
	require.Equal(t, "{", strings.TrimSpace(string(b)))
}
