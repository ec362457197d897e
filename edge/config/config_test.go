package config

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"wispgate/edge"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Fatalf("%s differs (-want +got):\n%s", path, diff)
	}
}

func write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNothingSaidIsAWorkingConfiguration(t *testing.T) {
	t.Parallel()
	c, origins, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Fatal(diff)
	}
	if c.API.Listen != ":8443" || c.Radius.RejectDelay != time.Second || c.Radius.AuthListen[0] != ":1812" || c.Journal.MaxBytes != 1<<30 {
		t.Fatalf("got %+v", c)
	}
	for k, o := range origins {
		if o.String() != "default" {
			t.Errorf("%s: got origin %s", k, o)
		}
	}
	for _, empty := range []string{"", "# only a comment\n", "---\n", "node:\n", "radius:\n  # auth_listen:\nnode:\n  site:\n"} {
		got, _, err := Load(write(t, "w.yaml", empty, 0o600), nil)
		if diff := cmp.Diff(c, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", empty, err, diff)
		}
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	t.Parallel()
	for _, s := range Default().Settings(nil) {
		if !strings.HasSuffix(s.Doc, ".") || s.Key == "" || strings.HasSuffix(s.Key, ".") {
			t.Errorf("key %q has doc %q", s.Key, s.Doc)
		}
	}
}

func TestFileEnvironmentAndSecretsGoTogether(t *testing.T) {
	t.Parallel()
	secret := write(t, "pw", "s3cret\n", 0o600)
	path := write(t, "w.yaml", `
node: {id: tower7-a, site: 0012}
radius:
  auth_listen: ["10.0.0.1:1812", ':1645']
  reject_delay: 0
  rcvbuf: 8MiB
relay:
  allow_private_cidrs:
    - 10.0.0.0/24
uplink:
  enabled: true
  broker: mqtts://noc.example.net:8883
  username: tower7
  password_file: `+secret+`
`, 0o600)
	c, origins, err := Load(path, []string{
		"WISPGATE_NODE__LOG_LEVEL=debug", "WISPGATE_RADIUS__ACCT_LISTEN=:1813,:1646", "WISPGATE_API__TLS__CERT_FILE=",
		"WISPGATE_URL=https://x", "HOME=/",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Site != "0012" || c.Uplink.Password.Reveal() != "s3cret" || len(c.Radius.AcctListen) != 2 || c.Radius.RejectDelay != 0 {
		t.Fatalf("got %+v", c)
	}
	var out strings.Builder
	if err := c.Show(&out, origins); err != nil {
		t.Fatal(err)
	}
	shown := strings.ReplaceAll(out.String(), path, "wispgate.yaml")
	if strings.Contains(shown, "s3cret") {
		t.Fatal("a secret is shown")
	}
	// Column widths depend on the temporary path, so only single spaces are compared.
	lines := strings.Split(shown, "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	golden(t, "show.golden", []byte(strings.Join(lines, "\n")))
}

func TestEveryFindingIsListedWithItsPlace(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		yaml string
		env  []string
	}{
		"unknown_keys":  {yaml: "nod:\n  id: a\nradius:\n  auth_listn: [':1']\n  listen: ':2'\nzzzzzz: 1\napi:\n  tls:\n    cert_fil: x\n"},
		"wrong_types":   {yaml: "radius:\n  workers: many\n  auth_listen: ':1812'\n  reject_delay: 5\n  rcvbuf: lots\nuplink:\n  enabled: yes please\nnode: [1]\napi:\n  max_conns: 1.5\n  hostnames: [[a]]\n"},
		"out_of_bounds": {yaml: "radius:\n  workers: 999\n  cache_ttl: 1h\nnode:\n  log_level: loud\n  id: Tower 7\njournal:\n  max_bytes: 1KB\n"},
		"do_not_fit":    {yaml: "radius:\n  acct_listen: [':1812']\napi:\n  listen: ':9843'\n  admin_listen: '0.0.0.0:9843'\nuplink:\n  enabled: true\nstorage:\n  low_free_percent: 50\nrelay:\n  mqtt_listen: ''\n"},
		"plaintext":     {yaml: "uplink:\n  broker: mqtt://noc.example.net:1883\nrelay:\n  broker: tcp://127.0.0.1:1883\n"},
		"twice":         {yaml: "node:\n  id: a\nnode:\n  id: b\n"},
		"not_yaml":      {yaml: "node:\n  id: a\n   site: b\n  - x\n"},
		"anchors":       {yaml: "node: &a\n  id: x\nradius: *a\napi:\n  <<: *a\n  listen: !!str ':1'\n"},
		"two_documents": {yaml: "node:\n  id: a\n---\nnode:\n  id: b\n"},
		"missing_files": {yaml: "api:\n  tls:\n    cert_file: /nonexistent/cert.pem\nuplink:\n  username: a\n  password_file: /nonexistent/pw\n"},
		"environment":   {env: []string{"WISPGATE_NODE__LOGLEVEL=debug", "WISPGATE_RADIUS__WORKERS=x", "WISPGATE_API__ADMIN_LISTEN=:1"}},
		"backup":        {yaml: "backup:\n  at: '3:10'\n  keep: 0\n  recipients: ['age1xyz', 'wgb-public-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA']\n  passphrase: short\n"},
		"secret_twice":  {yaml: "uplink:\n  username: a\n  password: x\n  password_file: /etc/hostname\n"},
		"addresses":     {yaml: "api:\n  listen: '8443'\n  hostnames: ['https://x', 'a b']\nrelay:\n  allow_private_cidrs: [10.0.0.1/8, 1.2.3, '10/8']\n  broker: 'http://x'\nradius:\n  auth_listen: ['tower:1812', ':99999']\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := ""
			if c.yaml != "" {
				path = write(t, "w.yaml", c.yaml, 0o600)
			}
			_, _, err := Load(path, c.env)
			e, ok := edge.AsError(err)
			if !ok || e.Kind != edge.Invalid || e.Code != "config_invalid" {
				t.Fatalf("got %v", err)
			}
			out, err := json.MarshalIndent(e, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			shown := string(out)
			if path != "" {
				shown = strings.ReplaceAll(shown, path, "wispgate.yaml")
			}
			golden(t, name+".golden", []byte(shown+"\n"))
		})
	}
}

func TestUnreadableFilesSayWhy(t *testing.T) {
	t.Parallel()
	for _, path := range []string{filepath.Join(t.TempDir(), "none.yaml"), t.TempDir(), write(t, "big", strings.Repeat("#", maxFileBytes+1), 0o600)} {
		_, _, err := Load(path, nil)
		if e, ok := edge.AsError(err); !ok || e.Code != "config_unreadable" || e.Fix == "" {
			t.Errorf("got %v", err)
		}
	}
	_, _, err := Load(write(t, "w.yaml", "uplink: {username: a, password_file: "+write(t, "pw", "x", 0o644)+"}", 0o600), nil)
	if err == nil || !strings.Contains(err.Error(), "everybody may read") {
		t.Errorf("got %v", err)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	golden(t, "schema.json", Schema())
}

func TestDiffNamesWhatChangedAndHidesSecrets(t *testing.T) {
	t.Parallel()
	a, b := Default(), Default()
	b.Limits.ClientPerMinute, b.Uplink.Password, b.Radius.AuthListen = 5, "x", nil
	want := []Change{{"radius.auth_listen", ":1812", ""}, {"uplink.password", "", "***"}, {"limits.client_per_minute", "1200", "5"}}
	if diff := cmp.Diff(want, Diff(a, b)); diff != "" {
		t.Fatal(diff)
	}
}

func TestSizesReadBackWhatTheyPrint(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Bytes{"0": 0, "7": 7, "1KiB": 1024, "1500KB": 1500000, "2 GB": 2e9, "1TiB": 1 << 40, "12B": 12} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
		if back, err := ParseBytes(got.String()); err != nil || back != got {
			t.Errorf("%s prints as %s, which reads as %d, %v", text, got, back, err)
		}
	}
	for _, bad := range []string{"", "-1", "1.5GB", "9999999999TiB", "1 XB", "MB"} {
		if _, err := ParseBytes(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func reflectConfig(c *Config) reflect.Value { return reflect.ValueOf(c).Elem() }

func FuzzLoad(f *testing.F) {
	for _, s := range []string{"node: {id: a}", "a: &x [*x]", "? a\n: b", "- 1", "{", "node: |\n x", "\"\\u0000\": 1", "radius: {workers: 0x10}", strings.Repeat("[", 2000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > maxFileBytes {
			return
		}
		c := Default()
		l := &loader{config: reflectConfig(&c), file: "w.yaml", origins: Origins{}, secretFiles: map[string]string{}}
		l.yaml([]byte(s))
		if len(l.findings) > 0 && l.error().Error() == "" {
			t.Fatal("an error without words")
		}
	})
}

func TestTheExampleSaysNothingAndUncommentedTheDefaults(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := Example(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "example.yaml", []byte(out.String()))
	var uncommented strings.Builder
	for line := range strings.SplitSeq(out.String(), "\n") {
		body, indent := strings.TrimLeft(line, " "), len(line)-len(strings.TrimLeft(line, " "))
		if key, ok := strings.CutPrefix(body, "# "); ok {
			name, _, isKey := strings.Cut(key, ":")
			if !isKey || strings.ContainsAny(name, " ") || strings.HasSuffix(name, "password") {
				continue
			}
			line = strings.Repeat(" ", indent) + key
		}
		uncommented.WriteString(line + "\n")
	}
	for _, text := range []string{out.String(), uncommented.String()} {
		c, origins, err := Load(write(t, "w.yaml", text, 0o600), nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(Default(), c); diff != "" {
			t.Fatal(diff)
		}
		if text != out.String() && origins["radius.workers"].Source != "file" {
			t.Fatal("nothing was uncommented")
		}
	}
}

func TestDeepNestingIsRefusedQuickly(t *testing.T) {
	t.Parallel()
	for _, deep := range []string{strings.Repeat("[", maxFileBytes), strings.Repeat("{a: ", maxFileBytes/4), strings.Repeat("- ", maxFileBytes/2)} {
		begin := time.Now()
		_, _, err := Load(write(t, "w.yaml", deep, 0o600), nil)
		if err == nil || time.Since(begin) > 30*time.Second {
			t.Errorf("%.5s…: got %v after %v", deep, err, time.Since(begin))
		}
	}
}
