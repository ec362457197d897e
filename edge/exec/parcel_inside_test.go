package exec

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/edge"
)

func genRaw(t *rapid.T) json.RawMessage {
	raw, err := json.Marshal(map[string]string{"v": rapid.String().Draw(t, "text")})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func genRequest(t *rapid.T) request {
	r := request{Read: rapid.Bool().Draw(t, "read")}
	for range rapid.IntRange(0, 3).Draw(t, "intents") {
		in := &Intent{Operation: rapid.String().Draw(t, "operation"), Actor: edge.SystemActor("acme", "test"), Digest: "d", At: time.Unix(5, 0).UTC()}
		for range rapid.IntRange(0, 3).Draw(t, "calls") {
			in.Calls = append(in.Calls, edge.Call{Op: "a.b.c", In: genRaw(t)})
		}
		r.Intents = append(r.Intents, in)
	}
	return r
}

func genResponse(t *rapid.T) response {
	r := response{Version: rapid.Uint64().Draw(t, "version")}
	for range rapid.IntRange(0, 3).Draw(t, "answers") {
		if rapid.Bool().Draw(t, "refused") {
			r.Answers = append(r.Answers, outcome{Error: edge.ErrTooLarge.Error(edge.Invalid)})
			continue
		}
		reply := &edge.Reply{Operation: "op", Version: 7, State: "committed"}
		for range rapid.IntRange(0, 3).Draw(t, "results") {
			reply.Results = append(reply.Results, genRaw(t))
		}
		r.Answers = append(r.Answers, outcome{Reply: reply})
	}
	return r
}

// TestAParcelSaysWhatADocumentDoes also holds that encoding leaves what it encodes as it is.
func TestAParcelSaysWhatADocumentDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		req, resp := genRequest(t), genResponse(t)
		var asked [2]request
		var answered [2]response
		for i, form := range []bool{true, false} {
			raw, err := req.encode(form)
			if err != nil {
				t.Fatal(err)
			}
			if isParcel(raw) != (form && len(req.Intents) > 0) {
				t.Fatalf("got another form: %q", raw)
			}
			if asked[i], err = decodeRequest(raw); err != nil {
				t.Fatal(err)
			}
			if raw, err = resp.encode(form); err != nil {
				t.Fatal(err)
			}
			if answered[i], err = decodeResponse(raw); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(asked[0], asked[1]) || !reflect.DeepEqual(answered[0], answered[1]) {
			t.Fatalf("got %+v and %+v, want %+v and %+v", asked[0], answered[0], asked[1], answered[1])
		}
	})
}

func TestADamagedParcelIsRefused(t *testing.T) {
	t.Parallel()
	req := request{Intents: []*Intent{{Operation: "o", Calls: []edge.Call{{Op: "a", In: json.RawMessage(`{"v":1}`)}, {Op: "b", In: json.RawMessage(`{}`)}}}}}
	raw, err := req.encode(true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		if _, err := decodeRequest(raw[:i]); err == nil {
			t.Errorf("cut at %d: it is taken", i)
		}
	}
	for name, body := range map[string]string{
		"something behind it": string(raw) + "\x01x",
		"an intent missing":   "\x01\x12{\"intents\":[null]}",
		"a length too large":  "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01{}",
		"an empty part":       "\x01\x00",
	} {
		if _, err := decodeRequest([]byte(body)); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

func FuzzParcel(f *testing.F) {
	raw, err := request{Intents: []*Intent{{Operation: "o", Calls: []edge.Call{{Op: "a", In: json.RawMessage(`{"v":1}`)}}}}}.encode(true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("\x01\x12{\"answers\":[null]}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if req, err := decodeRequest(body); err == nil && isParcel(body) {
			if _, err := req.encode(true); err != nil {
				t.Fatalf("decoded, but does not encode: %v", err)
			}
		}
		_, _ = decodeResponse(body)
	})
}
