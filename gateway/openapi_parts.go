package gateway

// The parts of the OpenAPI document that do not follow from the modules.

func textSchema(limit int, about string) obj {
	return obj{"type": "string", "maxLength": limit, "description": about}
}

var problemSchema = obj{
	"type": "object", "description": "A problem document (RFC 9457). It never holds a value from the request.",
	"required": []any{"type", "title", "status", "detail", "code", "request_id", "retryable"},
	"properties": obj{
		"type":           obj{"type": "string", "format": "uri-reference", "maxLength": 128, "description": "Served by this node, with the reason's words."},
		"title":          textSchema(64, "The status in words."),
		"status":         obj{"type": "integer", "format": "int32", "minimum": 400, "maximum": 599},
		"detail":         textSchema(512, "What is wrong, in one sentence."),
		"code":           textSchema(64, "Stable, machine-readable."),
		"fix":            textSchema(512, "What to do next."),
		"request_id":     textSchema(64, "Names the request in the node's logs."),
		"operation_id":   textSchema(255, "The Idempotency-Key, or the one minted."),
		"retryable":      obj{"type": "boolean", "description": "Whether the same request may succeed later."},
		"version":        obj{"type": "integer", "format": "int64", "minimum": 0, "maximum": int64(9007199254740991), "description": "The record's present version."},
		"errors_omitted": obj{"type": "integer", "format": "int32", "minimum": 0, "maximum": 2147483647, "description": "How many errors are not listed."},
		"errors": obj{"type": "array", "maxItems": 50, "items": obj{
			"type": "object", "required": []any{"reason"},
			"properties": obj{
				"pointer": textSchema(512, "Where in the body (RFC 6901)."),
				"in":      obj{"type": "string", "enum": []any{"path", "query", "header"}, "description": "Where outside the body."},
				"name":    textSchema(128, "The parameter's name, outside the body."),
				"reason":  textSchema(512, "What is wrong with it."),
				"limit":   textSchema(512, "The bound it broke."),
				"fix":     textSchema(512, "How to mend it."),
			},
		}},
	},
}

var planSchema = obj{
	"type": "object", "required": []any{"plan"}, "description": "The answer to a dry run.",
	"properties": obj{
		"plan": obj{
			"type": "object", "required": []any{"version", "changes", "events"},
			"properties": obj{
				"version": obj{"type": "integer", "format": "int64", "minimum": 0, "maximum": int64(9007199254740991)},
				"changes": obj{"type": []any{"array", "null"}, "maxItems": 10000, "items": obj{"type": "object", "description": "Table, id, and the record before and after."}},
				"events":  obj{"type": []any{"array", "null"}, "maxItems": 10000, "items": obj{"type": "object", "description": "Type, subject and what changed."}},
			},
		},
		"result": obj{"type": "object", "description": "The answer the command would give."},
	},
}

var commonParameters = obj{
	"idempotency_key": obj{
		"name": "Idempotency-Key", "in": "header", "required": false,
		"description": "A fresh UUID per operation. Repeating the request with the same key gives the first answer; X-Idempotency-Key is an alias.",
		"schema":      obj{"type": "string", "minLength": 1, "maxLength": 257},
	},
	"dry_run": obj{
		"name": "dry_run", "in": "query", "required": false, "description": "Evaluate and answer what would change; commit nothing.",
		"schema": obj{"type": "boolean", "default": false},
	},
	"min_version": obj{
		"name": "min_version", "in": "query", "required": false,
		"description": "Wait, within a short deadline, until this node has reached the version: read your writes on another node.",
		"schema":      obj{"type": "integer", "format": "int64", "minimum": 0, "maximum": int64(9007199254740991)},
	},
	"consistency": obj{
		"name": "consistency", "in": "query", "required": false,
		"description": "local answers from this node at once; strong asks the leader first, so that everything acknowledged anywhere before is seen, and is refused without a quorum.",
		"schema":      obj{"type": "string", "enum": []any{"local", "strong"}, "default": "local"},
	},
	"if_match":          ifMatchParameter(false),
	"if_match_required": ifMatchParameter(true),
	"if_none_match": obj{
		"name": "If-None-Match", "in": "header", "required": false, "description": "ETags of reads kept; an unchanged record answers 304.",
		"schema": obj{"type": "string", "maxLength": 512},
	},
}

func ifMatchParameter(required bool) obj {
	return obj{
		"name": "If-Match", "in": "header", "required": required,
		"description": "The ETag of the last read: the change is refused with 412 if the record has moved on.",
		"schema":      obj{"type": "string", "minLength": 3, "maxLength": 32, "pattern": `^"[0-9]+"$`},
	}
}

func headerDoc(about string, schema obj) obj { return obj{"description": about, "schema": schema} }

var commonHeaders = obj{
	"X-Request-Id":             headerDoc("Names the request in the node's logs.", obj{"type": "string", "maxLength": 64}),
	"RateLimit":                headerDoc("What is left of the tightest limit (draft-ietf-httpapi-ratelimit-headers).", obj{"type": "string", "maxLength": 128}),
	"RateLimit-Policy":         headerDoc("The limits that hold (draft-ietf-httpapi-ratelimit-headers).", obj{"type": "string", "maxLength": 256}),
	"Retry-After":              headerDoc("Seconds after which to ask again.", obj{"type": "integer", "format": "int32", "minimum": 1, "maximum": 86400}),
	"ETag":                     headerDoc("The record's version, for If-Match.", obj{"type": "string", "maxLength": 32}),
	"Wispgate-Version-Read":    headerDoc("The version of the state that was read.", obj{"type": "integer", "format": "int64", "minimum": 0, "maximum": int64(9007199254740991)}),
	"Wispgate-Version-Written": headerDoc("The version whose commit holds the write; pass it as min_version to read it elsewhere. Absent while the write is pending: no version of the cluster holds it yet.", obj{"type": "integer", "format": "int64", "minimum": 0, "maximum": int64(9007199254740991)}),
	"Wispgate-Sync-State":      headerDoc("What became of the write.", obj{"type": "string", "enum": []any{"committed", "pending", "conflict", "dry_run"}}),
	"Wispgate-Durability":      headerDoc("How far the write is durable.", obj{"type": "string", "enum": []any{"node", "cluster", "noc"}}),
	"Wispgate-Operation":       headerDoc("The operation id: the Idempotency-Key, or the one minted.", obj{"type": "string", "maxLength": 255}),
	"Wispgate-Isolated":        headerDoc("true while the node is cut off from the quorum.", obj{"type": "string", "enum": []any{"true"}}),
	"Idempotency-Replayed":     headerDoc("true when this is the first answer, given again.", obj{"type": "string", "enum": []any{"true"}}),
	"Wispgate-Shown-Once":      headerDoc("withheld on a replayed answer whose first form held a secret; rotate the credential to get a new one.", obj{"type": "string", "enum": []any{"withheld"}}),
	"Location":                 headerDoc("The address of what was made.", obj{"type": "string", "format": "uri-reference", "maxLength": 256}),
}

func refHeaders(names ...string) obj {
	out := obj{}
	for _, n := range names {
		out[n] = obj{"$ref": "#/components/headers/" + n}
	}
	return out
}

func readHeaders() obj {
	return refHeaders("X-Request-Id", "RateLimit", "RateLimit-Policy", "ETag", "Wispgate-Version-Read", "Wispgate-Isolated")
}

func writeHeaders() obj {
	return refHeaders("X-Request-Id", "RateLimit", "RateLimit-Policy", "ETag", "Location", "Wispgate-Version-Written", "Wispgate-Sync-State",
		"Wispgate-Durability", "Wispgate-Operation", "Idempotency-Replayed", "Wispgate-Shown-Once")
}
