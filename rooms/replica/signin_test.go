package replica

import (
	"crypto/sha1"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A profile by which a person signs in to AWS in a browser is refused with what to do
// instead; it would last for hours alone.
func TestProfilesOfPeopleAreRefused(t *testing.T) {
	for name, profile := range map[string]string{
		"SSO":         "sso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n[sso-session s]\nsso_region = eu-central-1\nsso_start_url = https://example.com\n",
		"SSO, legacy": "sso_start_url = https://example.com\nsso_region = eu-central-1\nsso_account_id = 123456789012\nsso_role_name = r\n",
		"login":       "login_session = arn:aws:iam::123456789012:user/u\n",
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			t.Setenv("AWS_PROFILE", "p")
			t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			t.Setenv("AWS_LOGIN_CACHE_DIRECTORY", home)
			file := filepath.Join(home, "config")
			t.Setenv("AWS_CONFIG_FILE", file)
			require.NoError(t, os.WriteFile(file, []byte("[profile p]\nregion = eu-central-1\n"+profile), 0o600))
			// What the AWS command keeps of a person who has signed in.
			cache := filepath.Join(home, ".aws", "sso", "cache")
			require.NoError(t, os.MkdirAll(cache, 0o700))
			for _, of := range []string{"s", "https://example.com"} {
				sum := sha1.Sum([]byte(of))
				require.NoError(t, os.WriteFile(filepath.Join(cache, hex.EncodeToString(sum[:])+".json"),
					[]byte(`{"accessToken": "t", "expiresAt": "2099-01-01T00:00:00Z"}`), 0o600))
			}
			l, err := parse("s3://bucket/path")
			require.NoError(t, err)
			_, err = openBucket(t.Context(), l)
			require.ErrorContains(t, err, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
			if name != "login" { // whose session is looked for first
				require.ErrorContains(t, err, "is not part of this program: give access keys, a role of the machine, or a web identity")
			}
		})
	}
}
