package gateway_test

import (
	"strings"
	"testing"

	"wispgate/edge"
)

// foreign is a well-formed id that no tenant holds.
const foreign = "itm_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"

// TestEveryRouteRefusesWhoMayNotCallIt is generated from the module, so a new route is in it by itself: without a credential, with an
// unknown one, without the scope, with another tenant's id.
func TestEveryRouteRefusesWhoMayNotCallIt(t *testing.T) {
	t.Parallel()
	m := open(t)
	id := m.make("bolt")
	for _, r := range shop().Routes {
		body := ""
		if r.Method == "PATCH" {
			body = `{"name":"taken over"}`
		} else if r.Created {
			body = `{"name":"x","shelf":"top","cents":1}`
		}
		call := func(path, key string) answer {
			return m.call(r.Method, path, key, body, "Idempotency-Key", "m-"+key+r.Op.Name, "If-Match", map[bool]string{true: `"1"`}[r.Op.Matches])
		}
		own := strings.ReplaceAll(r.Path, "{id}", id)
		t.Run(r.Op.Name, func(t *testing.T) {
			if r.Op.Scope == edge.Public {
				m.want(call(own, ""), 200, "")
			} else {
				m.want(call(own, ""), 401, "credential_missing")
				m.want(call(own, "none"), 403, "scope_missing")
				if a := call(own, "none"); !strings.Contains(string(a.body), r.Op.Scope) {
					t.Errorf("got %s, want the scope %s named", a.body, r.Op.Scope)
				}
			}
			m.want(call(own, "guessed"), 401, "credential_invalid")
			if !strings.Contains(r.Path, "{id}") {
				return
			}
			m.want(call(own, "other"), 404, "not_found")
			m.want(call(strings.ReplaceAll(r.Path, "{id}", foreign), "full"), 404, "not_found")
			m.want(call(strings.ReplaceAll(r.Path, "{id}", "cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"), "full"), 400, "parameter_invalid")
			m.want(call(strings.ReplaceAll(r.Path, "{id}", strings.ToUpper(id)), "full"), 400, "parameter_invalid")
		})
		if r.Method == "GET" {
			t.Run("HEAD of "+r.Op.Name, func(t *testing.T) {
				if a := m.call("HEAD", own, "full", ""); a.StatusCode != 200 || len(a.body) != 0 || a.Header.Get("Content-Length") == "0" {
					t.Errorf("got %d with %d octets, want the headers of the answer to GET", a.StatusCode, len(a.body))
				}
				if a := m.call("HEAD", own, "guessed", ""); a.StatusCode != 401 {
					t.Errorf("got %d, want 401", a.StatusCode)
				}
			})
		}
	}
	a := m.call("GET", "/api/v1/shop/items/"+id, "full", "")
	if m.want(a, 200, ""); a.json(t)["name"] != "bolt" || a.json(t)["version"] != 1.0 && a.json(t)["version"] != 2.0 {
		t.Errorf("a refused request changed the record: %s", a.body)
	}
}

func TestOverrideHeadersDecideNothing(t *testing.T) {
	t.Parallel()
	m := open(t)
	a := m.call("GET", "/api/v1/shop/items", "read", "", "X-HTTP-Method-Override", "POST", "X-Original-URL", "/api/v1/shop/door", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Host", "evil")
	m.want(a, 200, "")
	if strings.Contains(m.access.String(), "1.2.3.4") {
		t.Error("a forged address is in the log")
	}
}

func TestAllowNamesTheMethods(t *testing.T) {
	t.Parallel()
	m := open(t)
	a := m.call("DELETE", "/api/v1/shop/items", "full", "")
	m.want(a, 405, "method_not_allowed")
	if got, want := a.Header.Get("Allow"), "GET, HEAD, POST"; got != want {
		t.Errorf("got Allow %q, want %q", got, want)
	}
	a = m.call("POST", "/docs", "", "")
	if m.want(a, 405, "method_not_allowed"); a.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("got Allow %q, want GET, HEAD", a.Header.Get("Allow"))
	}
}
