package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

// obj is a JSON object; its members come out in the order of their names, so documents are the same on every node.
type obj = map[string]any

// openAPI makes the OpenAPI 3.1 document of the routes whose scope may be seen.
func openAPI(s *Server, may func(scope string) bool) ([]byte, error) {
	g := &generator{schemas: obj{}, shapes: map[string]string{}}
	paths := obj{}
	tags := []any{obj{"name": "gateway", "description": "Batches and what the node says about itself."}}
	for _, m := range s.cfg.Modules {
		tags = append(tags, obj{"name": m.Name, "description": orText(m.Summary, "The domain "+m.Name+".")})
	}
	for _, rt := range s.routes {
		if !may(rt.scope()) {
			continue
		}
		item, ok := paths[rt.Path].(obj)
		if !ok {
			item = obj{}
			paths[rt.Path] = item
		}
		item[strings.ToLower(rt.Method)] = g.operation(rt)
	}
	g.schemas["Problem"] = problemSchema
	doc := obj{
		"openapi": "3.1.0",
		"info": obj{
			"title": s.cfg.Title, "version": s.cfg.Version,
			"description": apiText, "summary": "The API of a tower node or relay.",
			"license": obj{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"contact": obj{"name": "The operator of this node"},
		},
		"jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
		"servers":           []any{obj{"url": "/", "description": "This node, in production.", "x-internal": false}},
		"security":          []any{obj{"key": []any{}}, obj{"header": []any{}}},
		"tags":              tags,
		"paths":             paths,
		"components": obj{
			"schemas": g.schemas, "responses": problemResponses(), "parameters": commonParameters, "headers": commonHeaders,
			"securitySchemes": obj{
				"key":    obj{"type": "http", "scheme": "bearer", "bearerFormat": "wg_live_…", "description": "An API key of this system (RFC 6750 header form)."},
				"header": obj{"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a header of its own."},
			},
		},
	}
	if err := errors.Join(g.errs...); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode openapi: %w", err)
	}
	return raw, nil
}

const apiText = "Everything below is generated from the declarations the node runs. Errors are problem documents (RFC 9457) with a stable " +
	"code and a remedy; /api/v1/reasons.json lists them all. Writes take an Idempotency-Key, answer with the resource, and say in the " +
	"headers Wispgate-Sync-State and Wispgate-Durability what became of it; with Accept: " + envelopeType +
	" the same stands in the member sync of an envelope {success, data, sync}."

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

type generator struct {
	schemas obj
	shapes  map[string]string // component name to its JSON, to tell two types of one name apart
	errs    []error
}

// operation describes one route.
func (g *generator) operation(rt *route) obj {
	if rt.own != nil {
		return g.ownOperation(rt)
	}
	op := rt.op
	doc := obj{
		"operationId": operationID(rt), "summary": op.Summary, "tags": []any{op.Domain()},
		"description": "Scope: `" + op.Scope + "`. Class: `" + string(op.Class) + "`.",
		"x-wispgate":  obj{"operation": op.Name, "scope": op.Scope, "class": op.Class, "offline": op.Offline},
		"responses":   g.responses(rt),
	}
	if op.Scope == edge.Public {
		doc["security"] = []any{obj{}}
	}
	var params []any
	for _, name := range rt.PathParams() {
		params = append(params, g.parameter(op, name, "path"))
	}
	if rt.query != nil {
		for _, f := range op.In.Fields {
			if rt.query[f.Name] != nil {
				params = append(params, g.parameter(op, f.Name, "query"))
			}
		}
	}
	if params = append(params, reservedParameters(rt)...); len(params) > 0 {
		doc["parameters"] = params
	}
	if rt.body != nil && !rt.body.Empty() {
		in := *op.In
		in.Fields = slices.DeleteFunc(slices.Clone(in.Fields), func(f edge.SchemaField) bool { return slices.Contains(rt.PathParams(), f.Name) })
		if len(in.Fields) != len(op.In.Fields) {
			in.Name = "" // the type without its path parameters is another
		}
		doc["requestBody"] = obj{
			"required": !rt.body.NeedsNothing(),
			"content":  obj{jsonType: obj{"schema": g.ref(&in, true)}},
		}
	}
	return doc
}

// operationID is the operation's name; where an operation has several routes, the method and the path's length tell them apart.
func operationID(rt *route) string { return rt.op.Name + rt.alias }

func (g *generator) ownOperation(rt *route) obj {
	doc := obj{
		"operationId": rt.own.name, "summary": rt.own.summary, "tags": []any{"gateway"},
		"description": "Any valid credential may ask. Each item of a batch needs the scope of its command.",
		"responses":   g.withProblems(obj{"200": obj{"description": "The answer.", "headers": readHeaders(), "content": obj{jsonType: obj{"schema": obj{"type": "object"}}}}}, rt),
	}
	if rt.Path == batchPath {
		if in, err := edge.SchemaOf[batchInput](); err == nil {
			doc["requestBody"] = obj{"required": true, "content": obj{jsonType: obj{"schema": g.ref(in, true)}}}
		}
		doc["parameters"] = reservedParameters(rt)
	}
	return doc
}

func (g *generator) parameter(op *edge.Op, name, in string) obj {
	f := op.In.Field(name)
	p := obj{"name": name, "in": in, "required": f.Required || in == "path", "schema": g.schema(f.Schema, true)}
	if f.Schema.Doc != "" {
		p["description"] = f.Schema.Doc
	}
	if f.Schema.Type == edge.Array {
		p["explode"] = true
		p["style"] = "form"
	}
	return p
}

func reservedParameters(rt *route) (params []any) {
	names := []string{"min_version", "consistency"}
	if rt.writes() {
		names = []string{"idempotency_key", "dry_run"}
		if rt.op != nil && rt.op.NeedsMatch {
			names = append(names, "if_match_required")
		} else if rt.op != nil && rt.op.Matches {
			names = append(names, "if_match")
		}
	} else if rt.hasVersion {
		names = append(names, "if_none_match")
	}
	for _, n := range names {
		params = append(params, obj{"$ref": "#/components/parameters/" + n})
	}
	return params
}

// responses describes the answers: the success, and every refusal that can happen.
func (g *generator) responses(rt *route) obj {
	op := rt.op
	ok := obj{"description": "The answer.", "headers": readHeaders()}
	if op.Out != nil {
		schema := g.ref(op.Out, false)
		ok["content"] = obj{jsonType: obj{"schema": schema}}
	}
	if !op.Command {
		out := obj{"200": ok}
		if rt.hasVersion {
			out["304"] = obj{"description": "The record still has the version named in If-None-Match.", "headers": readHeaders()}
		}
		return g.withProblems(out, rt)
	}
	ok["headers"] = writeHeaders()
	status := "200"
	if rt.Created {
		status = "201"
		plan := obj{"description": "What a dry run would do.", "content": obj{jsonType: obj{"schema": planSchema}}}
		out := obj{status: ok, "200": plan}
		return g.withProblems(g.pending(out, ok, op), rt)
	}
	// A dry run answers 200 as well; its document is told by its member plan.
	if content, isObj := ok["content"].(obj); isObj {
		content[jsonType] = obj{"schema": obj{"anyOf": []any{g.ref(op.Out, false), planSchema}}}
	}
	return g.withProblems(g.pending(obj{status: ok}, ok, op), rt)
}

func (g *generator) pending(out, ok obj, op *edge.Op) obj {
	if op.Offline {
		later := obj{"description": "Accepted by this node; it will be committed when the quorum is back."}
		for k, v := range ok {
			if k != "description" {
				later[k] = v
			}
		}
		out["202"] = later
	}
	return out
}

// withProblems adds the refusals a route can answer with.
func (g *generator) withProblems(out obj, rt *route) obj {
	statuses := []int{400, 401, 403, 404, 429, 500, 503}
	if rt.writes() {
		statuses = append(statuses, 409, 413, 415, 422)
		if rt.op != nil && rt.op.Matches {
			statuses = append(statuses, 412, 428)
		}
	}
	for _, status := range statuses {
		out[strconv.Itoa(status)] = obj{"$ref": "#/components/responses/" + problemName(status)}
	}
	return out
}

func problemName(status int) string {
	return "Problem" + strconv.Itoa(status)
}

// ref returns a reference to the component of a named type, or the schema itself for unnamed ones.
func (g *generator) ref(s *edge.Schema, input bool) obj {
	schema := g.schema(s, input)
	if _, is := schema["$ref"]; is || s.Type != edge.Object || s.Name == "" || s.Nullable {
		return schema
	}
	shape, err := json.Marshal(schema)
	if err != nil {
		g.errs = append(g.errs, err)
		return schema
	}
	base := strings.ToUpper(s.Name[:1]) + s.Name[1:]
	names := []string{base}
	if input {
		names = append(names, strings.TrimSuffix(base, "Input")+"Input")
	}
	for i := 2; ; i++ {
		for _, name := range names {
			if known, taken := g.shapes[name]; !taken || known == string(shape) {
				g.shapes[name], g.schemas[name] = string(shape), schema
				return obj{"$ref": "#/components/schemas/" + name}
			}
		}
		names = []string{base + strconv.Itoa(i)}
	}
}

var jsonTypes = map[edge.SchemaType]string{edge.Object: "object", edge.Map: "object", edge.Array: "array", edge.String: "string",
	edge.Integer: "integer", edge.Boolean: "boolean"}

// schema translates a schema into JSON Schema 2020-12. Inputs are closed: what is not declared is refused.
func (g *generator) schema(s *edge.Schema, input bool) obj {
	out := obj{}
	if name := jsonTypes[s.Type]; name != "" {
		out["type"] = name
		if s.Nullable {
			out["type"] = []any{name, "null"}
		}
	}
	if s.Doc != "" {
		out["description"] = s.Doc
	}
	switch s.Type {
	case edge.Object:
		g.object(out, s, input)
	case edge.Map:
		out["additionalProperties"] = g.ref(s.Item, input)
		if s.Key != nil && s.Key.Max != nil {
			out["propertyNames"] = g.schema(s.Key, input)
		}
		bounds(out, s, "minProperties", "maxProperties")
	case edge.Array:
		out["items"] = g.ref(s.Item, input)
		bounds(out, s, "minItems", "maxItems")
	case edge.String:
		g.text(out, s, input)
	case edge.Integer:
		bounds(out, s, "minimum", "maximum")
		out["format"] = "int64"
	case edge.Boolean, edge.Any:
	}
	if input && s.Secret {
		out["writeOnly"] = true
	}
	g.example(out, s)
	return out
}

func (g *generator) object(out obj, s *edge.Schema, input bool) {
	properties := obj{}
	required := []any{}
	for _, f := range s.Fields {
		properties[f.Name] = g.member(f.Schema, input)
		if f.Required {
			required = append(required, f.Name)
		}
	}
	out["properties"] = properties
	if len(required) > 0 {
		out["required"] = required
	}
	if input {
		out["additionalProperties"] = false
	}
}

// member is a property's schema: the description of the member stands beside the reference to its type.
func (g *generator) member(s *edge.Schema, input bool) obj {
	ref := g.ref(s, input)
	if _, is := ref["$ref"]; is && s.Doc != "" {
		ref["description"] = s.Doc
	}
	return ref
}

func bounds(out obj, s *edge.Schema, low, high string) {
	if s.Min != nil {
		out[low] = *s.Min
	}
	if s.Max != nil {
		out[high] = *s.Max
	}
}

func (g *generator) text(out obj, s *edge.Schema, input bool) {
	bounds(out, s, "minLength", "maxLength")
	if len(s.Enum) > 0 {
		values := []any{}
		for _, e := range s.Enum {
			values = append(values, e)
		}
		if s.Nullable {
			values = append(values, nil)
		}
		out["enum"] = values
	}
	if s.Pattern != nil {
		out["pattern"] = s.Pattern.String()
	}
	if s.Format == "" {
		return
	}
	out["format"] = s.Format
	if s.Format == "id" {
		prefix := s.Prefix
		if prefix == "" {
			prefix = "[a-z0-9]{2,8}"
		}
		if input {
			out["pattern"] = "^" + prefix + "_[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
		}
	}
}

// example shows a declared example, which must itself pass the schema.
func (g *generator) example(out obj, s *edge.Schema) {
	if s.Example == "" {
		return
	}
	raw := []byte(s.Example)
	switch {
	case s.Type == edge.String:
		raw = plan.AppendString(nil, s.Example)
	case s.Type == edge.Array && s.Item.Type == edge.String && !json.Valid(raw): // a list of one, or several apart by commas
		raw = []byte{'['}
		for i, item := range strings.Split(s.Example, ",") {
			if i > 0 {
				raw = append(raw, ',')
			}
			raw = plan.AppendString(raw, strings.TrimSpace(item))
		}
		raw = append(raw, ']')
	}
	p, err := plan.Compile(s)
	var c plan.Checker
	if err != nil || !p.Check(&c, raw) {
		g.errs = append(g.errs, fmt.Errorf("the example of %s %q does not fit its schema", s.Name, s.Doc))
		return
	}
	out["examples"] = []any{json.RawMessage(raw)}
}

func problemResponses() obj {
	out := obj{}
	for _, status := range []int{400, 401, 403, 404, 409, 412, 413, 415, 422, 428, 429, 500, 503} {
		headers := obj{"X-Request-Id": obj{"$ref": "#/components/headers/X-Request-Id"}}
		if status == 429 || status == 503 {
			headers["Retry-After"] = obj{"$ref": "#/components/headers/Retry-After"}
		}
		for _, name := range []string{"RateLimit", "RateLimit-Policy"} { // on what an identified client gets
			headers[name] = obj{"$ref": "#/components/headers/" + name}
		}
		out[problemName(status)] = obj{
			"description": http.StatusText(status) + ".",
			"headers":     headers,
			"content":     obj{problemType: obj{"schema": obj{"$ref": "#/components/schemas/Problem"}}},
		}
	}
	return out
}
