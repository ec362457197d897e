package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const collection = "/api/v1/shop/items"

func TestARepeatedWriteGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	m := open(t)
	body := `{"name":"bolt","shelf":"top","cents":5}`
	first := m.call("POST", collection, "full", body, "Idempotency-Key", `"k 1"`)
	m.want(first, 400, "idempotency_key_invalid") // a blank is not printable
	first = m.call("POST", collection, "full", body, "Idempotency-Key", `"k1"`)
	m.want(first, 201, "")
	again := m.call("POST", collection, "full", ` { "cents":5, "shelf" : "top","name":"b\u006flt"}`, "X-Idempotency-Key", "k1")
	m.want(again, 201, "")
	if string(first.body) != string(again.body) {
		t.Errorf("got %s, want the first answer %s", again.body, first.body)
	}
	if first.Header.Get("Idempotency-Replayed") != "" || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("got replayed %q then %q, want only the second marked", first.Header.Get("Idempotency-Replayed"), again.Header.Get("Idempotency-Replayed"))
	}
	m.want(m.call("POST", collection, "full", `{"name":"nut","shelf":"top","cents":5}`, "Idempotency-Key", "k1"), 422, "idempotency_key_reused")
	m.want(m.call("POST", collection, "full", body, "Idempotency-Key", "k1", "X-Idempotency-Key", "k2"), 400, "idempotency_key_invalid")
	m.want(m.call("POST", collection, "full", body, "Idempotency-Key", strings.Repeat("k", 256)), 400, "idempotency_key_invalid")
	m.want(m.call("POST", collection, "other", body, "Idempotency-Key", "k1"), 201, "") // another tenant's key is another key
	minted := m.call("POST", collection, "full", `{"name":"nut","shelf":"top","cents":5}`)
	if m.want(minted, 201, ""); len(minted.Header.Get("Wispgate-Operation")) != 36 {
		t.Errorf("got operation %q, want a minted UUID", minted.Header.Get("Wispgate-Operation"))
	}
	id := minted.json(t)["id"].(string)
	m.want(m.call("POST", collection+"/"+id+":sell", "full", ""), 400, "idempotency_key_required")
	m.want(m.call("POST", collection+"/"+id+":sell?dry_run=true", "full", "", "Idempotency-Key", "s1"), 200, "")
	m.want(m.call("POST", collection+"/"+id+":sell", "full", "", "Idempotency-Key", "s1"), 200, "")
}

func TestVersionsGuardRecords(t *testing.T) {
	t.Parallel()
	m := open(t)
	id := m.make("bolt")
	at := collection + "/" + id
	a := m.call("GET", at, "full", "")
	if a.Header.Get("ETag") != `"1"` {
		t.Fatalf("got ETag %q, want \"1\"", a.Header.Get("ETag"))
	}
	for _, tag := range []string{`"1"`, `W/"1"`, `"7", "1"`, `*`} {
		if a := m.call("GET", at, "full", "", "If-None-Match", tag); a.StatusCode != 304 || len(a.body) != 0 || a.Header.Get("ETag") != `"1"` {
			t.Errorf("If-None-Match %s: got %d %q, want 304 with the tag", tag, a.StatusCode, a.body)
		}
	}
	m.want(m.call("GET", at, "full", "", "If-None-Match", `"2"`), 200, "")
	patch := func(headers ...string) answer { return m.call("PATCH", at, "full", `{"name":"screw"}`, headers...) }
	m.want(patch(), 428, "if_match_required")
	for _, bad := range []string{`1`, `*`, `W/"1"`, `"1","2"`, `"x"`, `""`} {
		m.want(patch("If-Match", bad), 400, "precondition_invalid")
	}
	m.want(patch("If-Match", `"0"`), 412, "version_moved")
	a = patch("If-Match", `"2"`)
	if m.want(a, 412, "version_moved"); a.json(t)["version"] != 1.0 {
		t.Errorf("got %s, want the present version 1", a.body)
	}
	a = patch("If-Match", `"1"`)
	if m.want(a, 200, ""); a.Header.Get("ETag") != `"2"` || a.json(t)["name"] != "screw" {
		t.Errorf("got ETag %q %s, want the changed record at \"2\"", a.Header.Get("ETag"), a.body)
	}
	m.want(m.call("POST", at+":sell", "full", "", "Idempotency-Key", "s", "If-Match", `"2"`), 400, "precondition_invalid")
	m.want(m.call("POST", at+":hide", "full", "", "If-Match", `"1"`), 412, "version_moved")
	m.want(m.call("POST", collection, "full", `{"name":"new","shelf":"top","cents":5}`, "If-None-Match", "*"), 201, "")
	m.want(m.call("POST", at+":hide", "full", "", "If-None-Match", "*"), 400, "precondition_invalid")
}

func TestADryRunChangesNothing(t *testing.T) {
	t.Parallel()
	m := open(t)
	a := m.call("POST", collection+"?dry_run=true", "full", `{"name":"bolt","shelf":"top","cents":5}`, "Idempotency-Key", "k1")
	m.want(a, 200, "")
	plan := a.json(t)["plan"].(map[string]any)
	if len(plan["changes"].([]any)) != 1 || len(plan["events"].([]any)) != 1 || a.Header.Get("Wispgate-Sync-State") != "dry_run" {
		t.Errorf("got %s, want one change and one event", a.body)
	}
	if a := m.call("GET", collection, "full", ""); !strings.Contains(string(a.body), `"data":[]`) {
		t.Errorf("a dry run left something: %s", a.body)
	}
	m.want(m.call("POST", collection, "full", `{"name":"nut","shelf":"top","cents":5}`, "Idempotency-Key", "k1"), 201, "") // the key is not used up
	m.want(m.call("POST", collection+"?dry_run=yes", "full", `{}`), 400, "parameter_invalid")
	m.want(m.call("POST", collection+"?dry_run=true&dry_run=false", "full", `{}`), 400, "parameter_invalid")
	m.want(m.call("GET", collection+"?dry_run=true", "full", ""), 400, "parameter_invalid")
	m.want(m.call("POST", collection+"?dry_run=true", "full", `{"name":"shut","shelf":"top","cents":5}`), 409, "shop_shut")
}

func TestASecretIsShownOnce(t *testing.T) {
	t.Parallel()
	m := open(t)
	id := m.make("bolt")
	first := m.call("POST", collection+"/"+id+":lock", "full", "", "Idempotency-Key", "l1")
	if m.want(first, 200, ""); first.json(t)["key"] != "open sesame" {
		t.Errorf("got %s, want the key", first.body)
	}
	again := m.call("POST", collection+"/"+id+":lock", "full", "", "Idempotency-Key", "l1")
	if m.want(again, 200, ""); again.json(t)["key"] != nil || again.Header.Get("Wispgate-Shown-Once") != "withheld" {
		t.Errorf("got %s %q, want the key withheld and said so", again.body, again.Header.Get("Wispgate-Shown-Once"))
	}
	for _, line := range append(m.ledger.all(), m.logs.String(), m.access.String()) {
		if strings.Contains(line, "sesame") {
			t.Errorf("the secret is in a log: %s", line)
		}
	}
}

func TestTheEnvelopeOnRequest(t *testing.T) {
	t.Parallel()
	m := open(t)
	const envelope = "application/vnd.wispgate.v1+json"
	a := m.call("POST", collection, "full", `{"name":"bolt","shelf":"top","cents":5}`, "Accept", envelope, "Idempotency-Key", "e1")
	m.want(a, 201, "")
	var got struct {
		Success bool
		Data    struct{ ID string }
		Sync    struct {
			State, Durability string
			Version           int
			OperationID       string `json:"operation_id"`
		}
	}
	if err := json.Unmarshal(a.body, &got); err != nil {
		t.Fatal(err)
	}
	if a.Header.Get("Content-Type") != envelope || !got.Success || got.Data.ID == "" || got.Sync.State != "committed" || got.Sync.Durability != "node" ||
		got.Sync.Version == 0 || got.Sync.OperationID != "e1" {
		t.Errorf("got %s %s, want the envelope with data and sync", a.Header.Get("Content-Type"), a.body)
	}
	a = m.call("GET", collection+"/"+got.Data.ID, "full", "", "Accept", envelope)
	if m.want(a, 200, ""); !strings.HasPrefix(string(a.body), `{"success":true,"data":{"id":"`+got.Data.ID) || !strings.HasSuffix(string(a.body), "}}") {
		t.Errorf("got %s, want the envelope", a.body)
	}
	m.want(m.call("GET", collection+"/"+foreign, "full", "", "Accept", envelope), 404, "not_found")
}

func TestListsAndTheirParameters(t *testing.T) {
	t.Parallel()
	m := open(t)
	for i := range 5 {
		m.make(fmt.Sprintf("n%d", i))
	}
	seen := map[string]bool{}
	cursor := ""
	for range 5 {
		a := m.call("GET", collection+"?limit=2&shelf=top&cursor="+cursor, "full", "")
		m.want(a, 200, "")
		page := a.json(t)
		for _, d := range page["data"].([]any) {
			seen[d.(map[string]any)["name"].(string)] = true
		}
		if page["has_more"] != true {
			break
		}
		cursor = page["next_cursor"].(string)
	}
	if len(seen) != 5 {
		t.Errorf("got %v, want all five", seen)
	}
	for query, want := range map[string]string{
		"limit=1e9":                       "is not an integer",
		"limit=201":                       "is too large",
		"limit=1&limit=2":                 "appears twice",
		"shelf=attic":                     "is not one of the allowed values",
		"colour=red":                      "is not a known parameter",
		"%zz=1":                           "holds an escape that is not valid",
		"cheap=yes":                       "has the wrong type",
		"names=a&names=b&names=c&names=d": "has too many items",
		"min_version=x":                   "is not a version",
		"consistency=eventual":            "is not one of the allowed values",
		"Limit=1":                         "is not a known parameter",
	} {
		a := m.call("GET", collection+"?"+query, "full", "")
		if a.StatusCode != 400 || !strings.Contains(string(a.body), want) {
			t.Errorf("%s: got %d %s, want 400 %q", query, a.StatusCode, a.body, want)
		}
	}
	m.want(m.call("GET", collection+"?names=a&names=b+c&cheap=true", "full", ""), 200, "")
	m.want(m.call("GET", collection+"?cursor=AAAA", "full", ""), 400, "cursor_invalid")
}

func TestReadYourWrites(t *testing.T) {
	t.Parallel()
	m := open(t)
	a := m.call("POST", collection, "full", `{"name":"bolt","shelf":"top","cents":5}`)
	version := a.Header.Get("Wispgate-Version-Written")
	a = m.call("GET", collection+"?min_version="+version, "full", "")
	if m.want(a, 200, ""); a.Header.Get("Wispgate-Version-Read") != version {
		t.Errorf("got version read %q, want %s", a.Header.Get("Wispgate-Version-Read"), version)
	}
	m.want(m.call("GET", collection+"?consistency=strong", "full", ""), 200, "")
	m.want(m.call("GET", collection+"?consistency=local", "full", ""), 200, "")
}

func TestBatches(t *testing.T) {
	t.Parallel()
	m := open(t)
	create := func(name string) string {
		return fmt.Sprintf(`{"op":"shop.item.create","in":{"name":%q,"shelf":"top","cents":1}}`, name)
	}
	batch := func(mode string, key string, items ...string) answer {
		return m.call("POST", "/api/v1/batch", key, `{"mode":"`+mode+`","items":[`+strings.Join(items, ",")+`]}`, "Idempotency-Key", "b-"+mode)
	}
	a := batch("atomic", "full", create("a"), create("b"))
	if m.want(a, 200, ""); len(a.json(t)["results"].([]any)) != 2 {
		t.Errorf("got %s, want two results", a.body)
	}
	if a := batch("atomic", "full", create("a"), create("b")); a.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("got %v, want the first answer again", a.Header)
	}
	a = m.call("POST", "/api/v1/batch", "full", `{"mode":"atomic","items":[`+create("c")+`,{"op":"shop.item.create","in":{"name":""}},{"op":"shop.item.get","in":{}},{"op":"nope","in":{}}]}`)
	m.want(a, 422, "batch_refused")
	for _, want := range []string{"/items/1/in/name", "/items/1/in/shelf", `"/items/2"`, `"/items/3"`} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("got %s, want %s named", a.body, want)
		}
	}
	a = m.call("POST", "/api/v1/batch", "full", `{"mode":"atomic","items":[`+create("c")+`,`+create("a")+`]}`)
	m.want(a, 409, "")
	if strings.Contains(string(m.call("GET", collection, "full", "").body), `"name":"c"`) {
		t.Error("an atomic batch that failed left something")
	}
	a = batch("best_effort", "full", create("d"), create("a"), `{"op":"shop.item.create","in":{}}`)
	m.want(a, 200, "")
	var statuses []any
	for _, r := range a.json(t)["results"].([]any) {
		statuses = append(statuses, r.(map[string]any)["status"])
	}
	if fmt.Sprint(statuses) != "[200 409 422]" {
		t.Errorf("got %v, want [200 409 422]: %s", statuses, a.body)
	}
	a = m.call("POST", "/api/v1/batch", "read", `{"mode":"best_effort","items":[`+create("x")+`]}`)
	if m.want(a, 200, ""); !strings.Contains(string(a.body), "shop:write") {
		t.Errorf("got %s, want the missing scope named", a.body)
	}
	m.want(m.call("POST", "/api/v1/batch", "full", `{"mode":"atomic","items":[]}`), 422, "input_invalid")
	m.want(m.call("POST", "/api/v1/batch", "full", `{"mode":"atomic","items":[`+strings.TrimSuffix(strings.Repeat(create("x")+",", 101), ",")+`]}`), 422, "input_invalid")
	m.want(m.call("POST", "/api/v1/batch", "", `{}`), 401, "credential_missing")
}
