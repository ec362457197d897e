package app

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"wispgate/edge"
	"wispgate/sync/wire"
)

// demoHook stands for the ISP's own system: it takes webhooks and verifies their Standard Webhooks signature.
type demoHook struct {
	board *board
	key   []byte
	flaky bool
	now   func() time.Time
	ln    net.Listener
	srv   *http.Server

	mu       sync.Mutex
	fresh    int            // messages seen for the first time
	busy     time.Time      // from when on the next fresh one is put off
	waiting  map[string]int // attempts of messages that were put off
	landed   map[string]bool
	landings []string // the keys of landed, oldest first
}

const (
	hookBody      = 1 << 20
	hookTolerance = 5 * time.Minute // Standard Webhooks, "Verifying webhook authenticity"
	hookKept      = 20_000          // ids to recognise repetition by
	hookPutOff    = 45 * time.Second
	hookFirstOff  = 60 // messages before the first is put off
)

func listenHook(addr string, secret edge.Secret, flaky bool, b *board) (*demoHook, error) {
	key, err := wire.ParseSecret(secret)
	if err != nil {
		return nil, err
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for webhooks: %w", err)
	}
	h := &demoHook{board: b, key: key, flaky: flaky, now: time.Now, ln: ln, waiting: map[string]int{}, landed: map[string]bool{}}
	h.srv = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	return h, nil
}

// run serves until ctx ends.
func (h *demoHook) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = h.srv.Close() })
	defer stop()
	if err := h.srv.Serve(h.ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		h.board.note("The webhook receiver stopped: " + err.Error())
	}
}

// ServeHTTP takes one delivery.
func (h *demoHook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, hookBody))
	if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	h.board.posted.Add(1)
	id := r.Header.Get(wire.HeaderID)
	if !h.verify(r.Header, id, body) {
		h.board.forged.Add(1)
		h.board.tell(happening{Kind: wasForged, Who: "?", Text: "The signature does not verify; refused with 401"})
		http.Error(w, "signature does not verify", http.StatusUnauthorized)
		return
	}
	name, about := eventOf(body)
	attempts, putOff, again := h.take(id)
	switch {
	case putOff:
		h.board.putOff.Add(1)
		h.board.tell(happening{Kind: wasPutOff, Who: name, Text: "The receiver answers 503, Retry-After: 2 s"})
		w.Header().Set("Retry-After", "2")
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	case again:
		h.board.repeated.Add(1)
	default:
		h.board.verified.Add(1)
		landed := happening{Kind: wasDelivered, Who: name, Text: "Signature verified, first attempt"}
		if attempts > 1 {
			h.board.retried.Add(1)
			landed.Kind, landed.Text = wasRetried, "Signature verified, attempt "+strconv.Itoa(attempts)
		}
		if about != "" {
			landed.Text += " · " + about
		}
		h.board.tell(landed)
	}
	w.WriteHeader(http.StatusNoContent)
}

// verify checks the signature of a Standard Webhooks request: one of the listed ones must be ours, and the time must be near.
func (h *demoHook) verify(head http.Header, id string, body []byte) bool {
	seconds, err := strconv.ParseInt(head.Get(wire.HeaderTimestamp), 10, 64)
	if err != nil || id == "" {
		return false
	}
	at := time.Unix(seconds, 0)
	if d := h.now().Sub(at); d > hookTolerance || d < -hookTolerance {
		return false
	}
	want := []byte(wire.Sign(id, at, body, h.key))
	return slices.ContainsFunc(strings.Fields(head.Get(wire.HeaderSignature)), func(sig string) bool { return hmac.Equal([]byte(sig), want) })
}

// take counts a verified message and says whether it is to be put off, or came before.
func (h *demoHook) take(id string) (attempts int, putOff, again bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.landed[id] {
		return 0, false, true
	}
	attempts = h.waiting[id] + 1
	if attempts == 1 {
		h.fresh++
		if now := h.now(); h.flaky && h.fresh > hookFirstOff && now.After(h.busy) && len(h.waiting) < hookKept {
			h.waiting[id], h.busy = 1, now.Add(hookPutOff)
			return 1, true, false
		}
	}
	delete(h.waiting, id)
	h.landed[id] = true
	if h.landings = append(h.landings, id); len(h.landings) > hookKept {
		delete(h.landed, h.landings[0])
		h.landings = h.landings[1:]
	}
	return attempts, false, false
}

// eventOf reads what a person wants to see of an event: its name, and what it is about where its body says so in one word.
func eventOf(body []byte) (name, about string) {
	var e struct {
		Type string `json:"type"`
		Data struct {
			Object struct {
				Name     string `json:"name"`
				Username string `json:"username"`
				Login    string `json:"login"`
				Code     string `json:"code"`
			} `json:"object"`
			Changed struct {
				Login  string `json:"login"`
				Reason string `json:"reason"`
			} `json:"changed"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &e) != nil || e.Type == "" {
		return "?", ""
	}
	o := e.Data.Object
	for _, s := range []string{o.Name, o.Username, o.Login, e.Data.Changed.Login, o.Code, e.Data.Changed.Reason} {
		if s != "" {
			return wire.EventName(e.Type), s
		}
	}
	return wire.EventName(e.Type), ""
}
