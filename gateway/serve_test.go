package gateway_test

import "testing"

func TestWriteReadAndChangeOfARecord(t *testing.T) {
	t.Parallel()
	m := open(t)
	a := m.call("POST", "/api/v1/shop/items", "full", `{"name":"bolt","shelf":"top","cents":5,"parts":[{"code":"a","count":1}]}`, "Idempotency-Key", "k1")
	m.want(a, 201, "")
	t.Logf("%v\n%s", a.Header, a.body)
	id := a.json(t)["id"].(string)
	a = m.call("GET", "/api/v1/shop/items/"+id, "full", "")
	m.want(a, 200, "")
	t.Logf("%v\n%s", a.Header, a.body)
	m.want(m.call("POST", "/api/v1/shop/items/"+id+":hide", "full", ""), 200, "")
	m.want(m.call("POST", "/api/v1/shop/items/"+id+":nope", "full", ""), 405, "method_not_allowed")
	t.Logf("%s", m.logs)
	a = m.call("GET", "/api/v1/openapi.json", "full", "")
	m.want(a, 200, "")
	t.Logf("%s", m.ledger.all())
}
