package edge

import (
	"errors"
	"strings"
)

// Kind is one of the few classes of failure that transports know (HTTP status, CLI exit code).
type Kind string

// The kinds. Each maps to one family of HTTP statuses and one CLI exit code.
const (
	Invalid         Kind = "invalid"         // 400 unreadable, 422 refused by schema or rule
	Unauthenticated Kind = "unauthenticated" // 401
	Denied          Kind = "denied"          // 403, names the missing scope
	NotFound        Kind = "not_found"       // 404, also for another tenant's record
	Conflict        Kind = "conflict"        // 409; 412 when the version moved; 428 when If-Match is missing
	Limited         Kind = "limited"         // 429
	Unavailable     Kind = "unavailable"     // 503; nothing is half done
	Internal        Kind = "internal"        // 500; the request id only
)

// ExitCode is the CLI's exit code for the kind.
func (k Kind) ExitCode() int {
	switch k {
	case Invalid:
		return 2
	case Unauthenticated, Denied:
		return 3
	case NotFound:
		return 4
	case Unavailable:
		return 5
	case Conflict:
		return 6
	default:
		return 1
	}
}

// Error is what a caller may see of a failure. Anything else becomes Internal: logged with the request id, shown as nothing more.
// It survives forwarding unchanged and never holds a value from the request.
type Error struct {
	Kind       Kind         `json:"kind"`
	Code       string       `json:"code"`    // stable, machine-readable: login_taken
	Message    string       `json:"message"` // what is wrong, one sentence
	Fix        string       `json:"fix"`     // what to do next, one sentence
	Fields     []FieldError `json:"fields,omitempty"`
	RetryAfter int          `json:"retry_after,omitempty"` // seconds after which the same request may succeed; 0: not said
	Version    uint64       `json:"version,omitempty"`     // the record's present version, with version_moved
}

// FieldError says where an input was wrong: in (body, path, query, header), a JSON pointer or name, the reason, the bound, the remedy.
type FieldError struct {
	In      string `json:"in,omitempty"`
	Pointer string `json:"pointer"`
	Reason  string `json:"reason"`
	Limit   string `json:"limit,omitempty"`
	Fix     string `json:"fix,omitempty"`
}

// Error is the text an operator reads: message, fields and fix.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	for _, f := range e.Fields {
		b.WriteString("; ")
		b.WriteString(f.Pointer)
		b.WriteString(" ")
		b.WriteString(f.Reason)
	}
	if e.Fix != "" {
		b.WriteString(". ")
		b.WriteString(e.Fix)
	}
	return b.String()
}

// Is matches errors by code, so that errors.Is works across nodes and encodings.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// AsError returns err as an *Error. What is not one becomes code "internal" and ok is false: log the original, show the result.
func AsError(err error) (e *Error, ok bool) {
	if errors.As(err, &e) {
		return e, true
	}
	return ErrInternal.Error(Internal), false
}

// Reason is a stable code with its one sentence and its one remedy. A domain lists its reasons in Module(); the same words serve
// API, CLI, log, metric and docs.
type Reason struct {
	Code string `json:"code"`
	Says string `json:"says"`
	Fix  string `json:"fix"`
}

// Error makes the reason an *Error of the given kind.
func (r Reason) Error(kind Kind, fields ...FieldError) *Error {
	return &Error{Kind: kind, Code: r.Code, Message: r.Says, Fix: r.Fix, Fields: fields}
}

// Reasons of the kernel itself, valid for every operation.
var (
	ErrInternal      = Reason{"internal", "Something went wrong inside the node", "Try again; if it persists, give the request id to support"}
	ErrNotFound      = Reason{"not_found", "There is no such record", "Check the id; a list shows what exists"}
	ErrUnique        = Reason{"already_exists", "Another record already holds a value that must be unique", "Use another value, or change the record that holds it"}
	ErrVersion       = Reason{"version_moved", "The record has changed since it was read", "Read it again and repeat the change with the new ETag"}
	ErrNeedsMatch    = Reason{"if_match_required", "Changing this record needs the version it was read at", "Send If-Match with the ETag of the last read"}
	ErrKeyReused     = Reason{"idempotency_key_reused", "This Idempotency-Key was already used for another request", "Use a new key for a new request; repeat the old request unchanged to get its answer"}
	ErrInFlight      = Reason{"operation_in_flight", "The same operation is still running", "Ask again with the same Idempotency-Key"}
	ErrQuorumLost    = Reason{"quorum_lost", "The cluster cannot commit at the moment", "Ask again with the same Idempotency-Key when the link is back; nothing was half done"}
	ErrStarting      = Reason{"starting", "The node is starting", "Ask again in a few seconds"}
	ErrUnknown       = Reason{"outcome_unknown", "The outcome of the write is not known yet", "Ask again with the same Idempotency-Key; it is answered once and applied once"}
	ErrTooLarge      = Reason{"too_large", "The change is larger than one entry may be", "Split it into several requests"}
	ErrCursor        = Reason{"cursor_invalid", "The cursor does not belong to this list", "Start the list again without a cursor"}
	ErrIndexUnknown  = Reason{"filter_unknown", "The list cannot be filtered this way", "Use one of the documented filters"}
	ErrInput         = Reason{"input_invalid", "The input does not fit the schema", "Correct the named fields"}
	ErrScope         = Reason{"scope_missing", "The credential lacks the scope for this operation", "Ask your administrator for a key with the scope named"}
	ErrDiskLow       = Reason{"disk_low", "The disk is nearly full, so nothing that grows is written", "Free space in the data directory; writes resume by themselves"}
	ErrFlowDepth     = Reason{"flow_too_deep", "Flows set each other off too many times", "Report it: two flows form a cycle"}
	ErrPendingFull   = Reason{"pending_full", "This node holds as many writes for the cluster as it can keep", "Restore the link to the cluster, or carry the pending writes there with wispgate sync export"}
	ErrRebasing      = Reason{"rebase_running", "Writes that this node has taken while it was cut off go to the cluster first", "Ask again in a few seconds with the same Idempotency-Key"}
	ErrSyncDismissed = Reason{"sync_dismissed", "The cluster's state did not allow the write, and somebody has let it go", "Send it again with a new Idempotency-Key if it is still wanted"}
	ErrSyncConflict  = Reason{"sync_conflict", "The write was accepted while this node was cut off, and the cluster's state did not allow it", "See wispgate sync conflicts: it stands there with the reason until somebody decides"}
	ErrFieldConflict = Reason{"field_conflict", "Somebody else has set the same field otherwise while this node was cut off", "Decide which value holds: apply this one, or let it go"}
	ErrSyncOrder     = Reason{"sync_order", "A pending write arrived before the one that precedes it", "Nothing to do: the node sends them again in order"}
	ErrUnknownOp     = Reason{"operation_unknown", "There is no such operation", "The OpenAPI document lists the operations"}
)

// KernelReasons lists the kernel's reasons.
func KernelReasons() []Reason {
	return []Reason{
		ErrInternal, ErrNotFound, ErrUnique, ErrVersion, ErrNeedsMatch, ErrKeyReused, ErrInFlight, ErrQuorumLost, ErrStarting,
		ErrUnknown, ErrTooLarge, ErrCursor, ErrIndexUnknown, ErrInput, ErrScope, ErrDiskLow, ErrFlowDepth, ErrPendingFull, ErrRebasing,
		ErrSyncConflict, ErrSyncDismissed, ErrFieldConflict, ErrSyncOrder, ErrUnknownOp,
	}
}

// Field is a FieldError for a member of the body: pointer "/name", the reason and the fix.
func Field(pointer, reason, fix string) FieldError {
	return FieldError{In: "body", Pointer: pointer, Reason: reason, Fix: fix}
}
