package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// canned answers requests by their path and cursor.
func canned(t *testing.T, answers map[string]string) string {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path+r.URL.Query().Get("cursor")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			answer = `{"status":404,"code":"not_found","detail":"no"}`
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(node.Close)
	return node.URL
}

func say(t *testing.T, args ...string) (code int, out, said string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, stdio{in: strings.NewReader(""), out: &o, err: &e})
	return code, o.String(), e.String()
}

var payments = map[string]string{
	"/api/v1/billing/payments":  `{"data":[{"id":"pay_1","receipt":{"number":"RCT-a-1"}}],"next_cursor":"x","has_more":true}`,
	"/api/v1/billing/paymentsx": `{"data":[{"id":"pay_2"}],"has_more":false}`,
}

// TestAllPagesAreOneDocument: a script that reads one page reads all of them in the same shape.
func TestAllPagesAreOneDocument(t *testing.T) {
	url := canned(t, payments)
	for form, want := range map[string]string{
		"json": `{"data":[{"id":"pay_1","receipt":{"number":"RCT-a-1"}},{"id":"pay_2"}],"has_more":false}`, "jsonl": "",
		"yaml": "data:\n- id: pay_1\n  receipt:\n    number: RCT-a-1\n- id: pay_2\nhas_more: false\n",
		"name": "pay_1\npay_2\n",
	} {
		code, out, said := say(t, "--url", url, "billing", "payment", "list", "--all", "-o", form)
		if form == "json" {
			var b bytes.Buffer
			must(t, json.Compact(&b, []byte(out)))
			out = b.String()
		}
		if form == "jsonl" {
			want = `{"id":"pay_1","receipt":{"number":"RCT-a-1"}}` + "\n" + `{"id":"pay_2"}` + "\n"
		}
		if code != 0 || out != want {
			t.Errorf("%s: exit %d, %q, want %q; %s", form, code, out, want, said)
		}
	}
}

// TestColumnsOfAListReachInto: as those of one record do, and a column that no such record can have is refused.
func TestColumnsOfAListReachInto(t *testing.T) {
	url := canned(t, payments)
	code, out, said := say(t, "--url", url, "billing", "payment", "list", "--all", "--columns", "id,receipt.number", "--no-headers")
	if want := "pay_1 RCT-a-1 pay_2 -"; code != 0 || strings.Join(strings.Fields(out), " ") != want {
		t.Errorf("exit %d, %q, want %q; %s", code, out, want, said)
	}
	code, _, said = say(t, "--url", url, "billing", "payment", "list", "--columns", "id,colour")
	if code != 2 || !strings.Contains(said, `"colour"`) {
		t.Errorf("an unknown column: exit %d, %s", code, said)
	}
	url = canned(t, map[string]string{"/api/v1/billing/payments": `{"data":[{"id":"pay_2"}],"has_more":false}`})
	code, out, said = say(t, "--url", url, "billing", "payment", "list", "--columns", "id,receipt.number", "--no-headers")
	if code != 0 || strings.Join(strings.Fields(out), " ") != "pay_2 -" {
		t.Errorf("one that no record here has: exit %d, %q %s", code, out, said)
	}
}

func TestTheListOfNodesHasItsNamesAndColumns(t *testing.T) {
	url := canned(t, map[string]string{
		"/api/v1/sync/status": `{"node":"a","clock":{"now":"2026-03-01T12:00:00Z"},"cluster":{"state":"leader","leader":"a","contact":true,"voters":["a","b"],"members":[
			{"node":"a","voter":true,"seen":"2026-03-01T12:00:00Z"},{"node":"b","voter":true,"silent":true,"lag":7,"seen":"2026-03-01T11:59:56Z"},{"node":"c","silent":true}]}}`,
		"/api/v1/sync/nodes": `{"data":[{"node":"a","role":"voter","status":"member","voter":true,"program_version":"0.1.0","certificate_end":"2026-03-09T00:00:00Z"},
			{"node":"b","role":"voter","status":"member","voter":true},{"node":"c","role":"replica","status":"member","repair_at":"2026-03-01T11:00:00Z"}]}`,
	})
	if code, out, said := say(t, "--url", url, "cluster", "list", "-o", "name"); code != 0 || out != "a\nb\nc\n" {
		t.Errorf("names: exit %d, %q %s", code, out, said)
	}
	_, out, _ := say(t, "--url", url, "cluster", "list")
	lines := strings.Split(out, "\n")
	for i, want := range [][]string{{"LAG", "VERSION", "CERTIFICATE"}, {"0.1.0", "2026-03-09"}, {"silent", "4s", " 7 "}, {"repairing, silent"}} {
		for _, w := range want {
			if i >= len(lines) || !strings.Contains(lines[i], w) {
				t.Errorf("line %d lacks %q: %s", i, w, out)
			}
		}
	}
}

// TestConflictsSayWhyAndWho: a person decides about a conflict by its reason and by who had asked.
func TestConflictsSayWhyAndWho(t *testing.T) {
	url := canned(t, map[string]string{
		"/api/v1/sync/conflicts": `{"data":[{"id":"cfl_1","status":"open","operation":"k1","calls":[{"op":"aaa.credential.create","in":{}}],"by":"cli_1","node":"d",
			"accepted_at":"2026-03-01T12:00:00Z","reason":{"code":"unique","message":"taken"},"decider":"aaa:write"},{"id":"cfl_2","by":"cli_2","reason":{"code":"unique"}}]}`,
		"/api/v1/identity/clients/cli_1": `{"id":"cli_1","name":"Tower app"}`,
	})
	_, out, _ := say(t, "--url", url, "sync", "conflicts")
	for _, want := range []string{"REASON.CODE", "unique", "Tower app", "cli_2", "aaa.credential.create"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing: %s", want, out)
		}
	}
}

// TestEveryErrorHasACodeAndAFix: also those of the command line and of files.
func TestEveryErrorHasACodeAndAFix(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	missing := filepath.Join(t.TempDir(), "no", "file")
	for _, tc := range []struct {
		code string
		exit int
		args []string
	}{
		{"file_missing", 2, []string{"sync", "import", missing, "-o", "json"}},
		{"file_missing", 2, []string{"sync", "export", "--out", missing, "-o", "json"}},
		{"usage", 2, []string{"cluster", "list", "--colour", "-o", "json"}},
		{"usage", 2, []string{"cluster", "list", "x", "--output=json"}},
		{"usage", 2, []string{"sync", "export", "-ojson"}},
		{"usage", 2, []string{"nonsense", "-o", "json"}},
		{"no_target", 5, []string{"--socket", missing, "status", "-o", "json"}},
	} {
		code, _, said := say(t, tc.args...)
		var e struct{ Code, Fix, Message string }
		if err := json.Unmarshal([]byte(said), &e); err != nil || code != tc.exit || e.Code != tc.code || e.Fix == "" {
			t.Errorf("%v: exit %d, %s", tc.args, code, said)
		}
		if e.Code == "no_target" && !strings.Contains(e.Message, missing) {
			t.Errorf("the socket that was named is not: %s", said)
		}
	}
}

// TestAKeyIsNotTheOperator: whoever asks a node from elsewhere is told where the cluster's commands run, not about a header that nobody set.
func TestAKeyIsNotTheOperator(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"status":403,"code":"tenant_foreign","detail":"The credential cannot act for the tenant named in X-Tenant-ID","fix":"Leave the header out"}`))
	}))
	defer node.Close()
	if code, _, said := say(t, "--url", node.URL, "cluster", "list"); code != 3 || !strings.Contains(said, "over its socket") || strings.Contains(said, "header") {
		t.Errorf("exit %d, %s", code, said)
	}
}
