package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wispgate/aaa/packet"
	"wispgate/aaa/radclient"
)

// TestNoSecretLiesOnTheDisk runs everything that handles a secret, kills the programs so that nothing is tidied up, and looks for the
// secrets in every file that they keep, in what they logged and in a support bundle.
func TestNoSecretLiesOnTheDisk(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	w := newTower(t, dir, `, username: tower, password: uplink-word-Qm55`, fmt.Sprintf(`mqtt_listen: "", mqtt_plain_listen: "127.0.0.1:%d"`, port), fmt.Sprintf("mqtt://127.0.0.1:%d", port))
	w.relay.start()
	var code []byte
	eventually(t, "the relay's claim code is there", func() (ok bool, state string) {
		var err error
		code, err = os.ReadFile(filepath.Join(w.relay.data, "claim-code"))
		return err == nil, fmt.Sprint(err)
	})
	w.noc = w.relay.claim()
	w.subscribe()
	w.node.start()
	w.api = w.node.claim()
	w.sell()
	secrets := map[string]string{
		"router secret": nasSecret, "password": annPassword, "uplink password": "uplink-word-Qm55", "relay's claim code": strings.TrimSpace(string(code)),
		"first key": w.api.key, "relay's first key": w.noc.key, "webhook secret": w.hookSecret,
	}
	w.handleSecrets(secrets)
	w.authenticate("ann", annPassword)
	w.authenticate("ann", "a-wrong-password-Kk90")
	w.authenticate("password-as-login-Yv31", annPassword)
	secrets["wrong password"] = "a-wrong-password-Kk90"
	a := w.api.ask(http.MethodGet, "/api/v1/crm/customers?key=query-secret-Rr28", "", nil)
	if a.status != http.StatusUnprocessableEntity && a.status != http.StatusBadRequest {
		t.Errorf("an unknown parameter: %s", a)
	}
	secrets["secret in a query"] = "query-secret-Rr28"
	eventually(t, "the receiver hears of ann's login", func() (bool, string) {
		return w.hook.distinct("wispgate.aaa.credential.created.v1") > 0, fmt.Sprint(w.hook.types)
	})
	w.flushed()
	bundle := filepath.Join(dir, "bundle.tar.gz")
	if out, err := exec.Command(binary(t), "support-bundle", "-c", w.node.conf, "--out", bundle).CombinedOutput(); err != nil {
		t.Fatalf("support-bundle: %v\n%s", err, out)
	}
	must(t, os.Mkdir(filepath.Join(dir, "bundle"), 0o700))
	if out, err := exec.Command("tar", "xzf", bundle, "-C", filepath.Join(dir, "bundle")).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	w.node.kill()
	w.relay.kill()
	files, known := 0, false
	look := func(path string) {
		raw, err := os.ReadFile(path)
		must(t, err)
		files++
		known = known || bytes.Contains(raw, []byte("Ann Example"))
		for what, secret := range secrets {
			for how, form := range forms(secret) {
				if bytes.Contains(raw, form) {
					t.Errorf("%s holds the %s%s", path, what, how)
				}
			}
		}
	}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			look(path)
		}
		return err
	}))
	look(w.node.log.Name())
	look(w.relay.log.Name())
	if files < 20 || !known {
		t.Errorf("looked at %d files and found what must be there: %v", files, known)
	}
}

// forms are the ways in which a secret might be written down.
func forms(secret string) map[string][]byte {
	raw := []byte(secret)
	return map[string][]byte{
		"": raw, " in base64": []byte(base64.RawStdEncoding.EncodeToString(raw)), " in hexadecimal": []byte(hex.EncodeToString(raw)),
	}
}

// handleSecrets makes, rotates and shows secrets of every kind.
func (w *tower) handleSecrets(secrets map[string]string) {
	w.t.Helper()
	note := func(c *apiClient, what, path string, in any) {
		w.t.Helper()
		var out struct {
			Secret string `json:"secret"`
		}
		c.must(w.t, http.MethodPost, path, in, &out)
		if out.Secret == "" {
			w.t.Fatalf("%s: no secret was shown", what)
		}
		secrets[what] = out.Secret
	}
	client := w.api.create(w.t, "/api/v1/identity/clients", map[string]any{"name": "Billing system", "kind": "service", "scopes": []string{"crm:read"}})
	note(w.api, "second key", "/api/v1/identity/keys", map[string]any{"client": client, "name": "nightly"})
	nas := w.api.create(w.t, "/api/v1/aaa/nas", map[string]any{"identifier": "other", "addresses": []string{"127.0.0.77"}, "secret": "other-secret-Bb12345"})
	w.api.must(w.t, http.MethodPost, "/api/v1/aaa/nas/"+nas+":rotate-secret", map[string]any{"secret": "rotated-secret-Cc12345"}, nil)
	login := w.api.create(w.t, "/api/v1/aaa/credentials", map[string]any{
		"type": "pap_chap", "username": "bob", "password": "bob-password-Dd123", "subscription_id": w.sub, "scheme": "argon2id",
	})
	w.api.must(w.t, http.MethodPost, "/api/v1/aaa/credentials/"+login+":rotate", map[string]any{"password": "bob-second-Ee12345"}, nil)
	maps.Copy(secrets, map[string]string{
		"router's first secret": "other-secret-Bb12345", "router's second secret": "rotated-secret-Cc12345", "hashed password": "bob-password-Dd123",
		"second password": "bob-second-Ee12345",
	})
}

// authenticate sends a login whatever comes of it.
func (w *tower) authenticate(login, password string) {
	w.t.Helper()
	c, err := radclient.Dial(w.auth, []byte(nasSecret), time.Now, radclient.Options{Timeout: time.Second})
	must(w.t, err)
	_, err = c.Do(w.t.Context(), radclient.Request{Code: packet.AccessRequest, Attrs: packet.AppendString(nil, packet.UserName, login), Password: &password})
	must(w.t, err)
	must(w.t, c.Close())
}
