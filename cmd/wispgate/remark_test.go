package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAPendingWriteSaysSo: the result stands on standard output as always, and one line on standard error says how far it has come.
func TestAPendingWriteSaysSo(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for name, tc := range map[string]struct {
		header map[string]string
		want   string
	}{
		"pending":   {map[string]string{"Wispgate-Sync-State": "pending", "Wispgate-Operation": "tech7-42"}, "Accepted on this node, not yet in the cluster: operation tech7-42. Follow it with: wispgate sync operation get tech7-42\n"},
		"odd key":   {map[string]string{"Wispgate-Sync-State": "pending", "Wispgate-Operation": "it's 1"}, `wispgate sync operation get 'it'\''s 1'`},
		"committed": {map[string]string{"Wispgate-Sync-State": "committed", "Wispgate-Operation": "tech7-42"}, ""},
		"replayed":  {map[string]string{"Wispgate-Sync-State": "pending", "Wispgate-Operation": "k", "Idempotency-Replayed": "true"}, "nothing was done twice.\nAccepted on this node"},
	} {
		t.Run(name, func(t *testing.T) {
			node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for k, v := range tc.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(http.StatusAccepted)
				_, _ = w.Write([]byte(`{"id":"cus_1","name":"Ann"}`))
			}))
			defer node.Close()
			var out, said bytes.Buffer
			code := run(t.Context(), []string{"--url", node.URL, "crm", "customer", "create", "--kind", "person", "--name", "Ann", "-o", "json"}, stdio{in: strings.NewReader(""), out: &out, err: &said})
			if code != 0 || !strings.Contains(out.String(), `"cus_1"`) {
				t.Fatalf("exit %d, %s%s", code, &out, &said)
			}
			if got := said.String(); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
