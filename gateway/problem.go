package gateway

import (
	"net/http"
	"strconv"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

const (
	problemType = "application/problem+json"
	problemBase = "/problems/"
)

// quotaType and capacityType are the problem types of draft-ietf-httpapi-ratelimit-headers; the draft may still move.
const (
	quotaType    = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	capacityType = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// appendProblem writes a problem document (RFC 9457) of at most 16 KB: errors that do not fit are left out, and errors_omitted says
// how many. It holds only the declared words of the reason, never text of a library and never a value from the request.
func appendProblem(b []byte, e *edge.Error, request, operation string) []byte {
	start := len(b)
	status := statusOf(e)
	b = append(b, `{"type":`...)
	switch e.Code {
	case errRate.Code:
		b = plan.AppendString(b, quotaType)
	case errOverloaded.Code:
		b = plan.AppendString(b, capacityType)
	default:
		b = plan.AppendString(b, problemBase+e.Code)
	}
	b = append(b, `,"title":`...)
	b = plan.AppendString(b, http.StatusText(status))
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = appendMember(b, "detail", e.Message)
	b = appendMember(b, "code", e.Code)
	b = appendMember(b, "fix", e.Fix)
	b = appendMember(b, "request_id", request)
	b = appendMember(b, "operation_id", operation)
	b = append(b, `,"retryable":`...)
	b = strconv.AppendBool(b, retryable(e))
	if e.Version > 0 {
		b = append(b, `,"version":`...)
		b = strconv.AppendUint(b, e.Version, 10)
	}
	if len(e.Fields) == 0 {
		return append(b, '}')
	}
	b = append(b, `,"errors":[`...)
	for i := range e.Fields {
		before := len(b)
		if i > 0 {
			b = append(b, ',')
		}
		b = appendField(b, &e.Fields[i])
		if i >= plan.MaxErrors || len(b)-start > maxProblem-64 {
			b = append(b[:before], `],"errors_omitted":`...)
			b = strconv.AppendInt(b, int64(len(e.Fields)-i), 10)
			return append(b, '}')
		}
	}
	return append(b, ']', '}')
}

func appendField(b []byte, f *edge.FieldError) []byte {
	if f.In == "" || f.In == "body" {
		b = append(b, `{"pointer":`...)
		b = plan.AppendString(b, f.Pointer)
	} else {
		b = append(b, `{"in":`...)
		b = plan.AppendString(b, f.In)
		b = appendMember(b, "name", f.Pointer)
	}
	b = appendMember(b, "reason", f.Reason)
	b = appendMember(b, "limit", f.Limit)
	b = appendMember(b, "fix", f.Fix)
	return append(b, '}')
}

// appendMember writes ,"name":"value" unless the value is empty.
func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',')
	b = plan.AppendString(b, name)
	b = append(b, ':')
	return plan.AppendString(b, value)
}
