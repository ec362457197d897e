package wire_test

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	official "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"wispgate/edge"
	"wispgate/sync/wire"
)

func TestOfficialLibraryVerifiesEveryActiveSecret(t *testing.T) {
	t.Parallel()
	keys := [][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 24)}
	body, now := []byte(`{"a":"ü"}`), time.Now()
	h := http.Header{}
	h.Set(wire.HeaderID, "evt_1")
	h.Set(wire.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(wire.HeaderSignature, wire.Sign("evt_1", now, body, keys...))
	for _, key := range keys {
		wh, err := official.NewWebhook(wire.FormatSecret(key).Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if err := wh.Verify(body, h); err != nil {
			t.Errorf("the official library refuses the signature: %v", err)
		}
		if err := wh.Verify([]byte(`{"a":"u"}`), h); err == nil {
			t.Error("the official library accepts another body")
		}
	}
	stranger, err := official.NewWebhookRaw(bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Verify(body, h); err == nil {
		t.Error("another secret verifies")
	}
}

func TestSecretsRoundTripAndOthersAreRefused(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{7}, 32)
	if got, err := wire.ParseSecret(wire.FormatSecret(key)); err != nil || !bytes.Equal(got, key) {
		t.Errorf("got %x, %v", got, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "without prefix": strings.TrimPrefix(wire.FormatSecret(key).Reveal(), "whsec_"), "not base64": "whsec_!!!!",
		"too short": wire.FormatSecret(key[:23]).Reveal(), "too long": wire.FormatSecret(bytes.Repeat(key, 3)).Reveal(),
	} {
		if _, err := wire.ParseSecret(edge.Secret(bad)); err == nil {
			t.Errorf("a secret that is %s was taken", name)
		}
	}
}
