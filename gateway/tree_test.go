package gateway

import (
	"fmt"
	"testing"

	"wispgate/edge"
)

func TestTheTreeFindsTheMostParticularRoute(t *testing.T) {
	t.Parallel()
	var root branch
	for _, p := range []string{
		"GET /a/{id}", "PATCH /a/{id}", "POST /a/{id}:stop", "POST /a:import", "GET /a/by-name/{name}", "GET /a/{id}/parts/{part}", "GET /a/mine", "POST /a", "GET /a/mine/parts",
	} {
		var method, path string
		if _, err := fmt.Sscan(p, &method, &path); err != nil {
			t.Fatal(err)
		}
		root.add(&route{Route: edge.Route{Method: method, Path: path}})
	}
	for _, tt := range []struct{ method, path, want, params string }{
		{"GET", "/a/1", "/a/{id}", "1"},
		{"GET", "/a/mine", "/a/mine", ""},
		{"PATCH", "/a/mine", "", ""}, // the fixed segment is another address
		{"POST", "/a/1:stop", "/a/{id}:stop", "1"},
		{"POST", "/a/1:2:stop", "/a/{id}:stop", "1:2"},
		{"GET", "/a/1:stop", "", ""},
		{"GET", "/a/1:other", "/a/{id}", "1:other"},
		{"GET", "/a/:stop", "/a/{id}", ":stop"},
		{"POST", "/a:import", "/a:import", ""},
		{"POST", "/a", "/a", ""},
		{"GET", "/a/by-name/x:stop", "/a/by-name/{name}", "x:stop"},
		{"GET", "/a/mine/parts", "/a/mine/parts", ""},
		{"GET", "/a/mine/parts/7", "/a/{id}/parts/{part}", "mine 7"},       // back from the fixed segment
		{"GET", "/a/by-name/parts/7", "/a/{id}/parts/{part}", "by-name 7"}, // three segments are no name
		{"GET", "/a/", "", ""},
		{"GET", "/a/1/", "", ""},
		{"GET", "/b", "", ""},
		{"GET", "/", "", ""},
		{"GET", "/a/1/parts/2/3", "", ""},
	} {
		var params [maxParams]string
		got, shown := "", ""
		if rt := root.find(tt.path[1:], &params, 0)[tt.method]; rt != nil {
			got = rt.Path
			for i := range rt.PathParams() {
				if i > 0 {
					shown += " "
				}
				shown += params[i]
			}
		}
		if got != tt.want || shown != tt.params {
			t.Errorf("%s %s: got %q with %q, want %q with %q", tt.method, tt.path, got, shown, tt.want, tt.params)
		}
	}
}

func BenchmarkTree(b *testing.B) {
	var root branch
	for i := range 150 {
		root.add(&route{Route: edge.Route{Method: "GET", Path: fmt.Sprintf("/api/v1/dom%d/res%d/{id}", i%4, i)}})
	}
	b.ReportAllocs()
	for b.Loop() {
		var params [maxParams]string
		if root.find("api/v1/dom1/res149/itm_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33", &params, 0)["GET"] == nil {
			b.Fatal("got no route")
		}
	}
}
