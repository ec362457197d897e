package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/valyala/fasthttp"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

const (
	jsonType     = "application/json"
	envelopeType = "application/vnd.wispgate.v1+json"
)

// query answers a read.
func (s *Server) query(ctx context.Context, x *exchange) *edge.Error {
	if x.strong {
		version, err := s.ports.Executor.ReadVersion(ctx)
		if err != nil {
			return s.seen(x, err)
		}
		x.minimum = max(x.minimum, version)
	}
	out, version, err := s.ports.Executor.Ask(ctx, x.who.Actor, x.rt.op.Name, x.in, x.minimum)
	if err != nil {
		return s.seen(x, err)
	}
	x.version = version
	x.line = strconv.AppendUint(x.line[:0], version, 10)
	x.ctx.Response.Header.SetCanonical(headVersion, x.line)
	if s.cfg.Isolated() {
		x.set("Wispgate-Isolated", "true")
	}
	if v, ok := edge.VersionOf(out); ok {
		x.line = append(strconv.AppendUint(append(x.line[:0], '"'), v, 10), '"')
		tag := x.line
		x.ctx.Response.Header.SetCanonical(headTag, tag)
		if h := x.header(fasthttp.HeaderIfNoneMatch); len(h) > 0 && tagListed(h, tag) {
			x.send(fasthttp.StatusNotModified, "", nil)
			return nil
		}
	}
	x.out.Reset()
	if x.wrapped {
		x.out.WriteString(`{"success":true,"data":`)
	}
	if st, ok := out.(edge.Stored); ok {
		x.out.Write(st.JSON)
		x.out.WriteByte('\n')
	} else if err := x.enc.Encode(out); err != nil {
		s.log.Error("answer could not be encoded", "operation", x.rt.op.Name, "request_id", string(x.id[:]), "error", err)
		return edge.ErrInternal.Error(edge.Internal)
	}
	body := x.out.Bytes()
	body = body[:len(body)-1] // the line feed, the encoder's or ours
	kind := jsonType
	if x.wrapped {
		body, kind = append(body, '}'), envelopeType
	}
	x.send(fasthttp.StatusOK, kind, body)
	return nil
}

// seen is what the client sees of an error; what is not meant for it is logged.
func (s *Server) seen(x *exchange, err error) *edge.Error {
	e, ok := seen(err, x.rt.writes())
	if !ok {
		s.log.Error("operation failed", "operation", x.operation(), "request_id", string(x.id[:]), "error", err)
	}
	return e
}

// tagListed compares weakly, as If-None-Match does (RFC 9110 section 13.1.2).
func tagListed(h, tag []byte) bool {
	for part := range bytes.SplitSeq(h, []byte(",")) {
		part = bytes.TrimPrefix(bytes.TrimSpace(part), []byte("W/"))
		if string(part) == "*" || bytes.Equal(part, tag) {
			return true
		}
	}
	return false
}

// command answers a write.
func (s *Server) command(ctx context.Context, x *exchange) *edge.Error {
	reply, err := s.ports.Executor.Do(ctx, edge.Request{
		Key: x.key, Actor: x.who.Actor, IfMatch: x.ifMatch, DryRun: x.dryRun,
		Calls: []edge.Call{{Op: x.rt.op.Name, In: slices.Clone(x.in)}}, // the buffer is reused, the intent may outlive the request
	})
	if reply.Operation != "" {
		x.op = reply.Operation
	}
	if err != nil {
		return s.seen(x, err)
	}
	if x.dryRun {
		return s.planned(x, &reply)
	}
	x.writeHeaders(&reply)
	result := withOnce(first(reply.Results), firstOnce(reply.Once))
	if id := member(result, "id"); len(id) > 2 && edge.ID(id[1:len(id)-1]).Valid() {
		made := string(id[1 : len(id)-1])
		if !slices.Contains(x.records, made) {
			x.records = append(x.records, made)
		}
		if x.rt.location != "" {
			x.set("Location", x.rt.location+made)
		}
	}
	if v := member(result, "version"); x.rt.hasVersion && len(v) > 0 {
		x.set("ETag", `"`+string(v)+`"`)
	}
	x.sendWrite(statusOfWrite(&reply, x.rt.Created), &reply, result)
	return nil
}

// statusOfWrite is 202 for what is only accepted, 201 for what is new, else 200.
func statusOfWrite(r *edge.Reply, created bool) int {
	switch {
	case r.State == "pending":
		return fasthttp.StatusAccepted
	case created:
		return fasthttp.StatusCreated
	}
	return fasthttp.StatusOK
}

// writeHeaders say what became of a write. The body stays the plain resource.
func (x *exchange) writeHeaders(r *edge.Reply) {
	x.version = r.Version
	x.set("Wispgate-Operation", r.Operation)
	x.set("Wispgate-Sync-State", r.State)
	x.set("Wispgate-Durability", r.Durability)
	if r.Version > 0 {
		x.set("Wispgate-Version-Written", strconv.FormatUint(r.Version, 10))
	}
	if r.Replayed {
		x.set("Idempotency-Replayed", "true")
		if x.rt.op != nil && x.rt.once {
			x.set("Wispgate-Shown-Once", "withheld") // the first answer held a secret; a replay never does
		}
	}
}

// sendWrite answers with the resource, or with the envelope where the client asked for it.
func (x *exchange) sendWrite(status int, r *edge.Reply, result []byte) {
	if len(result) == 0 {
		result = []byte("{}")
	}
	if !x.wrapped {
		x.send(status, jsonType, result)
		return
	}
	b := append(x.out.AvailableBuffer(), `{"success":true,"data":`...)
	b = append(b, result...)
	b = append(b, `,"sync":`...)
	b = append(appendSync(b, r), '}')
	x.send(status, envelopeType, b)
}

func appendSync(b []byte, r *edge.Reply) []byte {
	b = append(b, `{"state":`...)
	b = plan.AppendString(b, r.State)
	b = appendMember(b, "durability", r.Durability)
	if r.Version > 0 {
		b = append(b, `,"version":`...)
		b = strconv.AppendUint(b, r.Version, 10)
	}
	b = appendMember(b, "operation_id", r.Operation)
	return append(b, '}')
}

// planned answers a dry run: the difference it would make, the events it would emit, the answer it would give.
func (s *Server) planned(x *exchange, r *edge.Reply) *edge.Error {
	out := struct {
		Plan   *edge.Plan      `json:"plan"`
		Result json.RawMessage `json:"result,omitempty"`
	}{r.Plan, first(r.Results)}
	x.set("Wispgate-Sync-State", "dry_run")
	x.out.Reset()
	if err := x.enc.Encode(out); err != nil {
		s.log.Error("plan could not be encoded", "operation", x.operation(), "request_id", string(x.id[:]), "error", err)
		return edge.ErrInternal.Error(edge.Internal)
	}
	x.send(fasthttp.StatusOK, jsonType, bytes.TrimSuffix(x.out.Bytes(), []byte("\n")))
	return nil
}

func first(results []json.RawMessage) json.RawMessage {
	if len(results) == 0 {
		return nil
	}
	return results[0]
}

func firstOnce(once []map[string]string) map[string]string {
	if len(once) == 0 {
		return nil
	}
	return once[0]
}

// withOnce adds the members that only the first answer has, in the order of their names.
func withOnce(result []byte, once map[string]string) []byte {
	if len(once) == 0 || len(result) < 2 || result[len(result)-1] != '}' {
		return result
	}
	names := make([]string, 0, len(once))
	for name := range once {
		names = append(names, name)
	}
	slices.Sort(names)
	b := slices.Clone(result[:len(result)-1])
	for _, name := range names {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = plan.AppendString(b, name)
		b = append(b, ':')
		b = plan.AppendString(b, once[name])
	}
	return append(b, '}')
}

// member returns the value of a member of the outermost object, as it stands in our own encoder's output; nil when there is none.
func member(object []byte, name string) []byte {
	depth, inString, expectName := 0, false, false
	start := 0
	for i := 0; i < len(object); i++ {
		switch b := object[i]; {
		case inString:
			if b == '\\' {
				i++
			} else if b == '"' {
				inString = false
				if depth == 1 && expectName && string(object[start:i]) == name && i+1 < len(object) && object[i+1] == ':' {
					return scalar(object[i+2:])
				}
			}
		case b == '"':
			inString, start = true, i+1
		case b == '{' || b == '[':
			depth++
			expectName = b == '{'
		case b == '}' || b == ']':
			depth--
		case b == ',' && depth == 1:
			expectName = true
		case b == ':' && depth == 1:
			expectName = false
		}
	}
	return nil
}

// scalar is the string, number or word that rest begins with.
func scalar(rest []byte) []byte {
	for i := range rest {
		if i > 0 && rest[0] == '"' {
			if rest[i] == '"' && rest[i-1] != '\\' {
				return rest[:i+1]
			}
			continue
		}
		if rest[i] == ',' || rest[i] == '}' {
			return rest[:i]
		}
	}
	return nil
}
