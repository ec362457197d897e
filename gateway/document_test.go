package gateway_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func (m *market) openapi(key string) map[string]any {
	m.t.Helper()
	a := m.call("GET", "/api/v1/openapi.json", key, "")
	m.want(a, 200, "")
	return a.json(m.t)
}

func TestTheOpenAPIDocumentShowsWhatTheCredentialMayCall(t *testing.T) {
	t.Parallel()
	m := open(t)
	m.want(m.call("GET", "/api/v1/openapi.json", "", ""), 401, "credential_missing")
	full, read := m.openapi("full"), m.openapi("read")
	methods := func(doc map[string]any, path string) []string {
		item, _ := doc["paths"].(map[string]any)[path].(map[string]any)
		var names []string
		for name := range item {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	if got, want := methods(full, "/api/v1/shop/items/{id}"), []string{"get", "patch"}; !slices.Equal(got, want) {
		t.Errorf("full key: got %v, want %v", got, want)
	}
	if got, want := methods(read, "/api/v1/shop/items/{id}"), []string{"get"}; !slices.Equal(got, want) {
		t.Errorf("reading key: got %v, want %v", got, want)
	}
	if got := methods(read, "/api/v1/shop/items/{id}:sell"); got != nil {
		t.Errorf("reading key: got %v of an operation it may not call", got)
	}
	schemas := read["components"].(map[string]any)["schemas"].(map[string]any)
	if schemas["ItemCreateInput"] != nil {
		t.Error("reading key: the document shows the input of an operation it may not call")
	}
}

// TestTheDocumentsPassTheLinters runs redocly and spectral where they are installed; where Node is the job of CI it must be there.
func TestTheDocumentsPassTheLinters(t *testing.T) {
	t.Parallel()
	lint := os.Getenv("WISPGATE_REDOCLY")
	if lint == "" {
		t.Skip("set WISPGATE_REDOCLY to the redocly program to lint the OpenAPI document; scripts/ci installs it")
	}
	m := open(t)
	file := filepath.Join(t.TempDir(), "openapi.json")
	a := m.call("GET", "/api/v1/openapi.json", "full", "")
	if err := os.WriteFile(file, a.body, 0o600); err != nil {
		t.Fatal(err)
	}
	if keep := os.Getenv("WISPGATE_OPENAPI_OUT"); keep != "" {
		_ = os.WriteFile(keep, a.body, 0o600)
	}
	out, err := exec.Command(lint, "lint", "--extends", "recommended", file).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the OpenAPI document does not pass: %v", err)
	}
}

// conform validates answers against the document: every test that calls through it proves the document right.
type conform struct {
	*market
	compiler *jsonschema.Compiler
	doc      map[string]any
}

func conforming(m *market) *conform {
	raw := m.call("GET", "/api/v1/openapi.json", "full", "").body
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		m.t.Fatal(err)
	}
	c := &conform{m, jsonschema.NewCompiler(), m.openapi("full")}
	if err := c.compiler.AddResource("urn:api", v); err != nil {
		m.t.Fatal(err)
	}
	return c
}

// check holds an answer to a request for the path template against its response in the document.
func (c *conform) check(a answer, method, template string) {
	c.t.Helper()
	item, _ := c.doc["paths"].(map[string]any)[template].(map[string]any)
	op, _ := item[strings.ToLower(method)].(map[string]any)
	if op == nil {
		c.t.Fatalf("the document has no %s %s", method, template)
	}
	responses := op["responses"].(map[string]any)
	status := a.Status[:3]
	response, _ := responses[status].(map[string]any)
	if response == nil {
		c.t.Fatalf("%s %s: the document has no answer %s", method, template, status)
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	at := "urn:api#/paths/" + escape.Replace(template) + "/" + strings.ToLower(method) + "/responses/" + status
	if ref, ok := response["$ref"].(string); ok {
		at = "urn:api" + ref
		name := ref[strings.LastIndexByte(ref, '/')+1:]
		response = c.doc["components"].(map[string]any)["responses"].(map[string]any)[name].(map[string]any)
	}
	content, _ := response["content"].(map[string]any)
	kind, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";")
	if len(a.body) == 0 && content == nil {
		return
	}
	if content[kind] == nil {
		c.t.Fatalf("%s %s %s: the document has no content %s", method, template, status, kind)
	}
	schema, err := c.compiler.Compile(at + "/content/" + escape.Replace(kind) + "/schema")
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, template, err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.body))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		c.t.Errorf("%s %s %s: the answer does not fit the document: %v\n%s", method, template, status, err, a.body)
	}
}

func TestAnswersFitTheDocument(t *testing.T) {
	t.Parallel()
	m := open(t)
	c := conforming(m)
	id := m.make("bolt")
	const items, one = "/api/v1/shop/items", "/api/v1/shop/items/{id}"
	at := items + "/" + id
	for _, tt := range []struct {
		method, path, template, key, body string
		headers                           []string
		status                            int
	}{
		{"POST", items, items, "full", `{"name":"nut","shelf":"top","cents":1,"parts":[{"code":"a","count":1}],"metadata":{"a":"b"},"tags":["x"]}`, nil, 201},
		{"POST", items + "?dry_run=true", items, "full", `{"name":"washer","shelf":"top","cents":1}`, nil, 200},
		{"POST", items, items, "full", `{"name":1}`, nil, 422},
		{"POST", items, items, "full", `{"name":"bolt","shelf":"top","cents":1}`, nil, 409},
		{"POST", items, items, "full", `{`, nil, 400},
		{"POST", items, items, "none", `{}`, nil, 403},
		{"POST", items, items, "", `{}`, nil, 401},
		{"POST", items, items, "full", `x`, []string{"Content-Type", "text/plain"}, 415},
		{"GET", items, items, "full", "", nil, 200},
		{"GET", items + "?limit=1", items, "full", "", nil, 200},
		{"GET", items + "?limit=0", items, "full", "", nil, 400},
		{"GET", at, one, "full", "", nil, 200},
		{"GET", at, one, "full", "", []string{"If-None-Match", `"1"`}, 304},
		{"GET", at, one, "other", "", nil, 404},
		{"PATCH", at, one, "full", `{"name":"screw"}`, nil, 428},
		{"PATCH", at, one, "full", `{"name":"screw"}`, []string{"If-Match", `"9"`}, 412},
		{"PATCH", at, one, "full", `{"name":"screw"}`, []string{"If-Match", `"1"`}, 200},
		{"POST", at + ":hide", one + ":hide", "full", "", nil, 200},
		{"POST", at + ":hide?dry_run=true", one + ":hide", "full", "", nil, 200},
		{"POST", at + ":lock", one + ":lock", "full", "", nil, 200},
		{"POST", at + ":sell", one + ":sell", "full", "", nil, 400},
		{"POST", at + ":sell", one + ":sell", "full", "", []string{"Idempotency-Key", "s1"}, 200},
		{"GET", "/api/v1/shop/door", "/api/v1/shop/door", "", "", nil, 200},
		{"GET", "/api/v1/reasons.json", "/api/v1/reasons.json", "read", "", nil, 200},
		{"GET", "/api/v1/events.json", "/api/v1/events.json", "read", "", nil, 200},
		{"GET", "/api/v1/openapi.json", "/api/v1/openapi.json", "read", "", nil, 200},
		{"POST", "/api/v1/batch", "/api/v1/batch", "full", `{"mode":"atomic","items":[{"op":"shop.item.create","in":{"name":"b1","shelf":"top","cents":1}}]}`, nil, 200},
	} {
		a := m.call(tt.method, tt.path, tt.key, tt.body, tt.headers...)
		if a.StatusCode != tt.status {
			t.Errorf("%s %s: got %d %s, want %d", tt.method, tt.path, a.StatusCode, a.body, tt.status)
			continue
		}
		c.check(a, tt.method, tt.template)
	}
}

func TestTheEventCatalogueNamesEveryEvent(t *testing.T) {
	t.Parallel()
	m := open(t)
	a := m.call("GET", "/api/v1/events.json", "read", "")
	var doc struct {
		AsyncAPI string
		Channels map[string]struct{ Address string }
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.AsyncAPI != "3.0.0" || doc.Channels["shop_item_created"].Address != "shop.item.created" {
		t.Errorf("got %s, want the event shop.item.created", a.body)
	}
}
