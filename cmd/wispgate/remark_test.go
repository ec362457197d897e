package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAClusterThatCannotDecideSaysHowItStands: a refused command of the operator names the voters that are in reach and what can be done, and
// the list says that it is of the past.
func TestAClusterThatCannotDecideSaysHowItStands(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	const status = `{"node":"n3","clock":{"now":"2026-03-01T12:00:00Z"},"pending":{"cut_off":true,"since":"2026-03-01T11:59:00Z"},"cluster":{"node_id":"n3","state":"candidate",
		"voters":["n1","n2","n3","n4"],"members":[{"node":"n1","voter":true,"seen":"2026-03-01T11:58:00Z"},{"node":"n3","voter":true,"seen":"2026-03-01T12:00:00Z"},
		{"node":"n4","voter":true,"seen":"2026-03-01T11:59:59Z"}]}}`
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"status":503,"code":"quorum_lost","detail":"The cluster cannot commit","fix":"Ask again"}`))
		case strings.HasSuffix(r.URL.Path, "/status"):
			_, _ = w.Write([]byte(status))
		default:
			_, _ = w.Write([]byte(`{"data":[{"node":"n1","role":"voter","status":"member","voter":true}]}`))
		}
	}))
	defer node.Close()
	st := clusterStatus{Node: "n3"}
	must(t, json.Unmarshal([]byte(strings.Replace(status, `"n4","voter":true`, `"n4","voter":true,"state":"leader"`, 1)), &st))
	if got, _ := st.away(); !strings.Contains(got, "reaches n4, which leads, and does not hear it") {
		t.Errorf("where the leader is reached: %q", got)
	}
	for name, tc := range map[string]struct{ status, want string }{
		"a voter that has just died":   {strings.Replace(status, `"n4","voter":true`, `"n4","voter":true,"silent":true`, 1), "of the other voters it reaches none. 3 of 4 voters must"},
		"one that remembers":           {strings.Replace(status, "11:59:59Z", "11:59:40Z", 1), "of the other voters it reaches none. 3 of 4"},
		"a replica":                    {strings.ReplaceAll(status, `"n1","n2","n3","n4"]`, `"n1","n2","n4"]`), "of the voters it reaches n4. 2 of 3 voters must"},
		"a parked one does not vote":   {strings.Replace(strings.Replace(status, `"n1","n2","n3","n4"]`, `"n1","n3","n4"]`, 1), `"n4","voter":true`, `"n4","voter":true,"state":"parked"`, 1), "it reaches n4 (parked). 2 of 3 voters must"},
		"enough, and an election":      {strings.Replace(status, `"n1","n2","n3","n4"]`, `"n1","n3","n4"]`, 1), "it reaches n4. They would be enough, and none of them leads yet"},
		"one that hears the leader":    {strings.Replace(status, `"n4","voter":true`, `"n4","voter":true,"state":"follower","leader":"n1"`, 1), "reaches n4, which hears n1 lead, and does not hear it itself"},
		"where they were sought":       {strings.Replace(status, `"n1","voter":true`, `"n1","voter":true,"silent":true,"problem":"its cluster.advertise is 10.8.0.7:7846; i/o timeout"`, 1), "3 of 4 voters must hear each other before anything is committed; n1 does not answer: its cluster.advertise is 10.8.0.7:7846; i/o timeout"},
		"a dead one that once had led": {strings.Replace(status, `"n4","voter":true`, `"n4","voter":true,"silent":true,"state":"leader"`, 1), "it reaches none. 3 of 4"},
	} {
		var st clusterStatus
		must(t, json.Unmarshal([]byte(tc.status), &st))
		if got, _ := st.away(); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q lacks %q", name, got, tc.want)
		}
	}
	for _, args := range [][]string{{"cluster", "invite"}, {"cluster", "remove", "n1", "--force"}, {"cluster", "transfer"}, {"cluster", "list"}} {
		var out, said bytes.Buffer
		code := run(t.Context(), append([]string{"--url", node.URL}, args...), stdio{in: strings.NewReader(""), out: &out, err: &said})
		if (code == 0) != (args[1] == "list") {
			t.Errorf("%v: exit %d", args, code)
		}
		for _, want := range []string{"it reaches n4. 3 of 4 voters must hear each other", "cluster recover --help"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%v: %q lacks %q", args, &said, want)
			}
		}
	}
}

// TestARefusedCommandOfTheOperatorSaysWhatHelps: its verbs carry no key that could be used again, and at a removed node nothing comes by waiting.
func TestARefusedCommandOfTheOperatorSaysWhatHelps(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	const removed = `{"node":"a","cluster":{"state":"follower","removed":true,"voters":["b"]}}`
	for name, tc := range map[string]struct{ code, fix, status, want string }{
		"not known": {"outcome_unknown", "Ask again with the same Idempotency-Key; it is answered once and applied once", `{"cluster":{"contact":true}}`, "whether it was done; where not, run the same command again"},
		"no leader": {"quorum_lost", "Ask again with the same Idempotency-Key when the link is back; nothing was half done", `{"cluster":{"contact":true}}`, "Ask again when the link is back"},
		"removed":   {"quorum_lost", "Ask again with the same Idempotency-Key when the link is back; nothing was half done", removed, "(node_expelled)"},
	} {
		t.Run(name, func(t *testing.T) {
			node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPost:
					w.Header().Set("Content-Type", "application/problem+json")
					w.WriteHeader(http.StatusServiceUnavailable)
					must(t, json.NewEncoder(w).Encode(map[string]any{"status": 503, "code": tc.code, "detail": "No", "fix": tc.fix}))
				case strings.HasSuffix(r.URL.Path, "/status"):
					_, _ = w.Write([]byte(tc.status))
				default:
					_, _ = w.Write([]byte(`{"data":[{"node":"b","role":"voter","status":"member","voter":true}]}`))
				}
			}))
			defer node.Close()
			for _, args := range [][]string{{"promote", "b"}, {"transfer", "b"}, {"transfer"}} {
				if len(args) == 1 && name != "removed" { // it finds that there is nobody
					continue
				}
				var out, said bytes.Buffer
				code := run(t.Context(), append([]string{"--url", node.URL, "cluster"}, args...), stdio{in: strings.NewReader(""), out: &out, err: &said})
				if got := said.String(); code != 5 || !strings.Contains(got, tc.want) || strings.Contains(got, "Idempotency-Key") {
					t.Errorf("%v: exit %d, %q", args, code, got)
				}
			}
		})
	}
}

// TestTheListOfNodesSaysWhatATableDoesNot: that a node has joined and is not one that stands alone, why another is silent, and that two histories are at work.
func TestTheListOfNodesSaysWhatATableDoesNot(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for name, tc := range map[string]struct{ status, nodes, want, not string }{
		"moved without a leader": {
			`{"node":"a","cluster":{"node_id":"a","advertise":"10.9.0.7:7846","voters":["a","b"],"members":[{"node":"a","voter":true,"address":"10.9.0.7:7846"},{"node":"b","voter":true,"silent":true}]}}`,
			`[{"node":"a","address":"10.8.0.7:7846"},{"node":"b","address":"10.8.0.8:7846"}]`, "node a itself is reached at 10.9.0.7:7846 now", "10.8.0.7",
		},
		"moved and heard of": {
			`{"node":"a","cluster":{"contact":true,"voters":["a","b"],"members":[{"node":"b","voter":true,"address":"10.9.0.8:7846"}]}}`,
			`[{"node":"a"},{"node":"b","address":"10.8.0.8:7846"}]`, "10.9.0.8:7846", "10.8.0.8",
		},
		"alone":  {`{"node":"a","cluster":{"state":"leader","contact":true,"voters":["a"]}}`, `[]`, "Node a stands alone", "joined"},
		"joined": {`{"node":"b","cluster":{"state":"follower","advertise":"10.8.0.8:7846"}}`, `[]`, "has joined its cluster, and no leader has reached it yet at 10.8.0.8:7846", "alone"},
		"silent": {
			`{"node":"a","cluster":{"state":"leader","contact":true,"voters":["a"],"members":[{"node":"b","problem":"its cluster.advertise is tower8:7846; no such host"}]}}`,
			`[{"node":"a"},{"node":"b"}]`, "Node b is silent: its cluster.advertise is tower8:7846; no such host.", "alone",
		},
		"two histories": {
			`{"node":"a","cluster":{"state":"leader","contact":true,"voters":["a"],"histories":[{"node":"b","incarnation":"9f2c"}]}}`, `[{"node":"a"}]`,
			"node b goes on with another (incarnation 9f2c)", "alone",
		},
		"left behind": {
			`{"node":"a","pending":{"waiting":1},"cluster":{"state":"follower","removed":true,"voters":["a","b"],"histories":[{"node":"b","incarnation":"9f2c"}]}}`, `[{"node":"a"}]`,
			"and the others refuse it. 1 write waits here, and nothing is handed over", "Two histories",
		},
	} {
		t.Run(name, func(t *testing.T) {
			node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/status") {
					_, _ = w.Write([]byte(tc.status))
					return
				}
				_, _ = w.Write([]byte(`{"data":` + tc.nodes + `}`))
			}))
			defer node.Close()
			var out, said bytes.Buffer
			code := run(t.Context(), []string{"--url", node.URL, "cluster", "list"}, stdio{in: strings.NewReader(""), out: &out, err: &said})
			if got := said.String() + out.String(); code != 0 || !strings.Contains(got, tc.want) || strings.Contains(got, tc.not) {
				t.Errorf("exit %d, %q", code, got)
			}
		})
	}
}

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
