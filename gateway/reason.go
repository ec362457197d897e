package gateway

import (
	"errors"

	"context"

	"wispgate/edge"
)

// Reasons of the gateway itself.
var (
	errMalformed    = edge.Reason{Code: "malformed_request", Says: "The request is not well-formed HTTP", Fix: "Send one length, whole header lines, no spaces in header names, and one Host"}
	errTarget       = edge.Reason{Code: "target_invalid", Says: "The path holds empty or dot segments, a backslash, or an escaped separator", Fix: "Send the path as the OpenAPI document spells it"}
	errRepeated     = edge.Reason{Code: "header_repeated", Says: "A header that may come once came twice", Fix: "Send it once"}
	errAmbiguous    = edge.Reason{Code: "credential_ambiguous", Says: "The request shows more than one credential", Fix: "Send either Authorization or X-API-Key, once"}
	errKeyInURL     = edge.Reason{Code: "key_in_url", Says: "The address holds an API key, which is now in somebody's log", Fix: "Rotate that key and send the new one in the Authorization header"}
	errBody         = edge.Reason{Code: "body_unexpected", Says: "This operation takes no body", Fix: "Send it without one"}
	errJSON         = edge.Reason{Code: "json_invalid", Says: "The body is not unambiguous JSON", Fix: "Correct the named places; RFC 8259 describes JSON"}
	errParameter    = edge.Reason{Code: "parameter_invalid", Says: "A parameter of the address is not right", Fix: "Correct the named parameters"}
	errIdemKey      = edge.Reason{Code: "idempotency_key_invalid", Says: "The Idempotency-Key is not 1 to 255 printable characters, or two differ", Fix: "Send one key, such as a UUID"}
	errIdemNeeded   = edge.Reason{Code: "idempotency_key_required", Says: "An operation that moves money needs an Idempotency-Key", Fix: "Send a fresh UUID as Idempotency-Key, and the same one when you repeat the request"}
	errIfMatch      = edge.Reason{Code: "precondition_invalid", Says: "The precondition cannot be used here", Fix: "Send If-Match with exactly the ETag of the last read, on operations that change a record"}
	errCredential   = edge.Reason{Code: "credential_missing", Says: "The request shows no credential", Fix: "Send an API key as Authorization: Bearer …, or as X-API-Key"}
	errBadScheme    = edge.Reason{Code: "credential_invalid", Says: "The credential is not one of this node's", Fix: "Check that the key is complete and belongs to this system"}
	errRoute        = edge.Reason{Code: "route_unknown", Says: "There is nothing at this address", Fix: "The OpenAPI document at /api/v1/openapi.json lists the addresses"}
	errMethod       = edge.Reason{Code: "method_not_allowed", Says: "The address exists, but not with this method", Fix: "Use one of the methods in the Allow header"}
	errTimeout      = edge.Reason{Code: "request_timeout", Says: "The request did not arrive in time", Fix: "Send headers and body within ten seconds"}
	errMediaType    = edge.Reason{Code: "media_type_unsupported", Says: "The body's type is not one this operation reads", Fix: "Send Content-Type: application/json"}
	errEncoding     = edge.Reason{Code: "encoding_unsupported", Says: "Compressed bodies are not accepted", Fix: "Send the body without Content-Encoding"}
	errHeadersLarge = edge.Reason{Code: "headers_too_large", Says: "The request line and headers are too large or too many", Fix: "Stay within 8 KB and 100 headers"}
	errProtocol     = edge.Reason{Code: "protocol_unsupported", Says: "The protocol version is not spoken here", Fix: "Use HTTP/1.1"}
	errRate         = edge.Reason{Code: "too_many_requests", Says: "The rate limit is used up", Fix: "Wait for the time in Retry-After, then go on more slowly"}
	errOverloaded   = edge.Reason{Code: "overloaded", Says: "The node has more work than it can do in time", Fix: "Ask again after the time in Retry-After; nothing was half done"}
	errAudit        = edge.Reason{Code: "audit_unavailable", Says: "The audit journal cannot be written, so the request is not answered as done", Fix: "Ask again with the same Idempotency-Key; the operator must look at the node's disk"}
	errSlow         = edge.Reason{Code: "too_slow", Says: "The answer was not ready in time", Fix: "Ask again, or for less"}
	errNotCommand   = edge.Reason{Code: "operation_not_batchable", Says: "A batch holds commands only", Fix: "Ask queries one by one"}
	errAborted      = edge.Reason{Code: "batch_refused", Says: "The atomic batch was refused as a whole", Fix: "Correct the named items; nothing was done"}
)

// Reasons lists the reasons of the gateway, for the catalogue.
func Reasons() []edge.Reason {
	return []edge.Reason{
		errMalformed, errTarget, errRepeated, errAmbiguous, errKeyInURL, errBody, errJSON, errParameter, errIdemKey, errIdemNeeded,
		errIfMatch, errCredential, errBadScheme, errRoute, errMethod, errTimeout, errMediaType, errEncoding, errHeadersLarge,
		errProtocol, errRate, errOverloaded, errAudit, errSlow, errNotCommand, errAborted,
	}
}

// statuses are the codes whose HTTP status does not follow from the kind.
var statuses = map[string]int{
	errMalformed.Code: 400, errTarget.Code: 400, errRepeated.Code: 400, errAmbiguous.Code: 400, errKeyInURL.Code: 400, errBody.Code: 400,
	errJSON.Code: 400, errParameter.Code: 400, errIdemKey.Code: 400, errIdemNeeded.Code: 400, errIfMatch.Code: 400,
	edge.ErrCursor.Code: 400, edge.ErrIndexUnknown.Code: 400,
	errMethod.Code: 405, errTimeout.Code: 408, edge.ErrVersion.Code: 412, edge.ErrTooLarge.Code: 413,
	errMediaType.Code: 415, errEncoding.Code: 415, edge.ErrKeyReused.Code: 422, edge.ErrNeedsMatch.Code: 428,
	errHeadersLarge.Code: 431, errProtocol.Code: 505,
}

// kindStatus is the HTTP status of each kind.
var kindStatus = map[edge.Kind]int{
	edge.Invalid: 422, edge.Unauthenticated: 401, edge.Denied: 403, edge.NotFound: 404, edge.Conflict: 409, edge.Limited: 429,
	edge.Unavailable: 503, edge.Internal: 500,
}

// statusOf maps an error to its HTTP status.
func statusOf(e *edge.Error) int {
	if status, ok := statuses[e.Code]; ok {
		return status
	}
	if status, ok := kindStatus[e.Kind]; ok {
		return status
	}
	return 500
}

// retryable says that the same request may succeed later without a change.
func retryable(e *edge.Error) bool {
	return e.Kind == edge.Limited || e.Kind == edge.Unavailable || e.Code == edge.ErrInFlight.Code || e.Code == errTimeout.Code
}

// seen makes of any error what the client may see; ok is false when it must be logged.
func seen(err error, command bool) (e *edge.Error, ok bool) {
	if e, ok = edge.AsError(err); ok {
		return e, true
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		if command {
			return edge.ErrUnknown.Error(edge.Unavailable), true
		}
		return errSlow.Error(edge.Unavailable), true
	}
	return e, false
}
