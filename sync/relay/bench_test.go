package relay

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"wispgate/edge"
	"wispgate/edge/store"
	"wispgate/sync/wire"
)

type noSecrets struct{}

func (noSecrets) Unseal(string, string, string, string) ([]byte, error) { return nil, nil }

// BenchmarkStore stores groups of 64 events of about 450 octets, one synced transaction each, with one endpoint that wants them all.
func BenchmarkStore(b *testing.B) {
	st, err := store.Open(store.Options{Dir: b.TempDir(), BallastBytes: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	r, err := New(Config{ID: "noc", Store: st, Unsealer: noSecrets{}, Now: time.Now, Client: &ClientConfig{Brokers: []string{"mqtt://127.0.0.1:1"}}})
	if err != nil {
		b.Fatal(err)
	}
	e, err := json.Marshal(Endpoint{Meta: edge.Meta{ID: queueEnd}, Events: []string{"*"}, Status: Disabled})
	if err != nil {
		b.Fatal(err)
	}
	r.reg.apply(true, 1, []edge.Change{{Tenant: queueTenant, Table: endpoints.Name, ID: queueEnd, Val: e}})
	r.committer.start()
	defer r.committer.stop()
	const group = 64
	var enc wire.Encoder
	messages := make([]inbound, b.N)
	for i := range messages {
		items := make([]wire.Item, group)
		for n := range items {
			p := uint64(i*group + n + 1)
			items[n], err = wire.NewItem("clu-1", edge.EventRow{
				ID: edge.DeriveID("evt", "bench", int(p)), Type: "aaa.session.updated", Tenant: queueTenant, Subject: edge.DeriveID("ses", "s", n),
				Time: t0, Actor: "system:radius", Operation: "op", Changed: json.RawMessage(`{"a":"` + strings.Repeat("x", 60) + `"}`), Position: p,
			}, "")
			if err != nil {
				b.Fatal(err)
			}
		}
		h := wire.Header{Tenant: queueTenant, Source: "clu-1", Incarnation: "i1", After: uint64(i * group), Upto: uint64((i + 1) * group)}
		raw, err := enc.Encode(h, items)
		if err != nil {
			b.Fatal(err)
		}
		messages[i] = inbound{topic: wire.Topic(queueTenant, "clu-1", wire.Events), payload: raw}
		if i == 0 {
			b.ReportMetric(float64(len(items[0].Raw)), "octets/event")
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, m := range messages {
		r.ingest.group(b.Context(), m)
	}
	b.StopTimer()
	if r.lastSeq.Load() != uint64(b.N*group) {
		b.Fatalf("%d of %d events were stored", r.lastSeq.Load(), b.N*group)
	}
	b.ReportMetric(float64(b.N)*group/b.Elapsed().Seconds(), "events/s")
}
