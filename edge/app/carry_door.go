package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"wispgate/edge"
)

// Bundles go through the administration's socket as streams: whoever asks for one can read the node's folder anyway. What was done stands in
// the audit journal.

// What the trailers of an answer hold when a bundle was sent: that it was, or why not.
const (
	trailerResult  = "Wispgate-Result"
	trailerProblem = "Wispgate-Problem"
)

// carryPages are the pages of the socket; both together serve one at a time.
func (c *core) carryPages() map[string]http.Handler {
	one := make(chan struct{}, 1)
	alone := func(serve func(http.ResponseWriter, *http.Request)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case one <- struct{}{}:
				defer func() { <-one }()
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				defer context.AfterFunc(c.ctx, cancel)() // a node that stops does not wait for it
				serve(w, r.WithContext(ctx))
			default:
				answerError(w, errCarryBusy.Error(edge.Unavailable))
			}
		})
	}
	return map[string]http.Handler{"POST /sync/export": alone(c.serveExport), "POST /sync/import": alone(c.serveImport)}
}

// serveExport sends a bundle.
func (c *core) serveExport(w http.ResponseWriter, r *http.Request) {
	var o CarryOut
	if err := json.NewDecoder(io.LimitReader(r.Body, 4<<10)).Decode(&o); err != nil {
		answerError(w, edge.ErrInput.Error(edge.Invalid))
		return
	}
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the listener's would end the request in the middle
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", trailerResult+", "+trailerProblem)
	sent := false
	to := bufio.NewWriterSize(writerFunc(func(b []byte) (int, error) {
		sent = true
		if err := out.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
			return 0, err
		}
		return w.Write(b)
	}), readPiece)
	made, err := c.exportBundle(r.Context(), o, to)
	if err == nil {
		err = to.Flush()
	}
	if err = errors.Join(err, c.auditCarry(r.Context(), "sync.bundle.export", err)); err != nil && !sent {
		w.Header().Del("Trailer")
		answerError(w, c.carryProblem("export", err))
		return
	}
	name, value := trailerResult, any(made)
	if err != nil {
		name, value = trailerProblem, c.carryProblem("export", err)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set(name, string(raw))
}

// carryLine is a line of the answer to an import: how far it is, then how it ended.
type carryLine struct {
	Done   uint64      `json:"done,omitempty"`
	Total  uint64      `json:"total,omitempty"`
	Result *Imported   `json:"result,omitempty"`
	Error  *edge.Error `json:"error,omitempty"`
}

// tellEvery is how often the other end hears of progress.
const tellEvery = 200 * time.Millisecond

// serveImport takes a bundle over.
func (c *core) serveImport(w http.ResponseWriter, r *http.Request) {
	out := http.NewResponseController(w)
	in := readerFunc(func(b []byte) (int, error) {
		if err := out.SetReadDeadline(time.Now().Add(sendWithin)); err != nil {
			return 0, err
		}
		return r.Body.Read(b)
	})
	f, err := c.spool(in)
	if err != nil {
		answerError(w, c.carryProblem("import", err))
		return
	}
	defer func() { _ = f.Close() }()
	_ = out.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/jsonl")
	answer := json.NewEncoder(w)
	var last time.Time
	say := func(l carryLine) {
		_ = out.SetWriteDeadline(time.Now().Add(sendWithin))
		_ = answer.Encode(l) // whoever does not listen any more has asked for it all the same
		_ = out.Flush()
	}
	former := r.URL.Query().Get("removed")
	got, err := c.importBundle(r.Context(), f, former, func(done, total uint64) {
		if now := time.Now(); now.Sub(last) >= tellEvery {
			last = now
			say(carryLine{Done: done, Total: total})
		}
	})
	err = errors.Join(err, c.auditCarry(context.WithoutCancel(r.Context()), "sync.bundle.import", err))
	if err != nil {
		say(carryLine{Error: c.carryProblem("import", err)})
		return
	}
	c.log.Info("a bundle was imported", "kind", got.Kind, "from", got.Node, "former", former != "", "new", got.New, "already", got.Already, "conflicts", got.Conflicts, "version", got.Version)
	say(carryLine{Result: &got})
}

// carryProblem is what the other end may see.
func (c *core) carryProblem(verb string, err error) *edge.Error {
	e, ok := edge.AsError(err)
	if !ok {
		c.log.Error("a bundle failed", "verb", verb, "error", err)
	}
	return e
}

// auditCarry writes down who took data out or in: whoever may open the socket.
func (c *core) auditCarry(ctx context.Context, op string, outcome error) error {
	line := AuditRecorded{
		Time: c.now().UTC(), Node: c.id.Node, Tenant: edge.System, Actor: edge.SystemActor(edge.System, "console").Subject, Name: op, Status: http.StatusOK,
	}
	if outcome != nil {
		e, _ := edge.AsError(outcome)
		line.Status, line.Code = http.StatusServiceUnavailable, e.Code
	}
	raw, err := json.Marshal(line)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, auditWithin)
	defer cancel()
	if _, err := c.audit.Append(ctx, kindAudit, raw); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

const auditWithin = 5 * time.Second

// errNoDaemon is a socket at which nobody answers.
func errNoDaemon(dir string) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "no_target", Message: "No daemon answers for the data folder " + dir,
		Fix: "Start wispgate serve; or name its socket with --socket. It is asked on the node's own machine",
	}
}

func errCarryBroken(err error) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "bundle_interrupted", Message: fmt.Sprintf("The node stopped in the middle: %v", err),
		Fix: "See that wispgate still runs, and what its log says; then begin again: whatever was handed over counts once",
	}
}

// ExportBundle has the daemon of a data folder write a bundle to w. With an error, what was written is none.
func ExportBundle(ctx context.Context, dir string, o CarryOut, w io.Writer) (made Exported, err error) {
	l := localClient(dir)
	if l == nil {
		return made, errNoDaemon(dir)
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return made, err
	}
	resp, err := l.send(ctx, http.MethodPost, "/sync/export", bytes.NewReader(raw), errCarryBroken)
	if err != nil {
		return made, err
	}
	defer func() { _ = resp.Body.Close() }()
	from := &firstError{r: resp.Body}
	_, err = io.Copy(w, from)
	if from.err != nil {
		return made, errCarryBroken(from.err)
	}
	if err != nil {
		return made, err
	}
	if problem := resp.Trailer.Get(trailerProblem); problem != "" {
		e := new(edge.Error)
		if err := json.Unmarshal([]byte(problem), e); err != nil || e.Code == "" {
			return made, errCarryBroken(errors.New("its answer cannot be read"))
		}
		return made, e
	}
	if err := json.Unmarshal([]byte(resp.Trailer.Get(trailerResult)), &made); err != nil {
		return made, errCarryBroken(io.ErrUnexpectedEOF)
	}
	return made, nil
}

// ImportBundle has the daemon of a data folder take a bundle over. former names the removed node whose writes are taken all the same, if any.
func ImportBundle(ctx context.Context, dir string, r io.Reader, former string, told func(done, total uint64)) (got Imported, err error) {
	l := localClient(dir)
	if l == nil {
		return got, errNoDaemon(dir)
	}
	from := &firstError{r: r}
	resp, err := l.send(ctx, http.MethodPost, "/sync/import?removed="+url.QueryEscape(former), from, errCarryBroken)
	if from.err != nil {
		return got, fmt.Errorf("read bundle: %w", from.err)
	}
	if err != nil {
		return got, err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := json.NewDecoder(resp.Body)
	for {
		var line carryLine
		if err := lines.Decode(&line); err != nil {
			return got, errCarryBroken(err)
		}
		switch {
		case line.Error != nil:
			return got, line.Error
		case line.Result != nil:
			return *line.Result, nil
		}
		told(line.Done, line.Total)
	}
}
