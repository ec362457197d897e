package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Command changes state. In and Out are plain structs: In's JSON names and check tags become the schema, the OpenAPI entry and the CLI
// flags. Handle may be evaluated more than once (a stale round, a rebase), so the same intent on the same state must give the same
// effects: no I/O, no clock but tx.Now(), no ids but tx.NewID(), no configuration.
type Command[In, Out any] struct {
	Name    string // domain.noun.verb
	Scope   string // domain:write
	Summary string // one sentence for people
	Class   Class
	Offline bool // may become a pending intent when there is no quorum: only if evaluating it twice and late is harmless
	// Level is the feature level from which every node can read what the command stores; 0 for what every version knows. Below it the
	// command is refused (feature_pending).
	Level int64
	// Record names the record that If-Match speaks of, "" or nil where there is none.
	Record func(In) ID
	// NeedsMatch refuses the command without If-Match (428).
	NeedsMatch bool
	// Prepare runs once on the accepting node, before the intent is made: it seals and mints secrets and clears the plaintext. It is
	// the only part that may be random, and it never runs again for the same intent.
	Prepare func(Prep, *In) error
	Handle  func(tx Tx, in In) (Out, error)
	// Again runs instead of Handle where a cut-off node hands over what has been done already: the same operation came to the cluster by
	// another way first. It may note what that node has handed out, such as the number of a receipt; the events of the first time stand.
	Again func(tx Tx, in In) error
}

// Query reads one View and writes nothing; any node answers it.
type Query[In, Out any] struct {
	Name    string
	Scope   string
	Summary string
	Class   Class
	Handle  func(v View, in In) (Out, error)
	// Shows and Record, where given, say that the answer is the record of that table with that id, just as it is stored: the shortest way
	// from the disk to the client. Handle answers where there is none, and inside a commit.
	Shows  AnyTable
	Record func(In) ID
}

// Stored is a record as it is stored, which is also how the API shows it.
type Stored struct {
	JSON    json.RawMessage
	Version uint64
}

// MarshalJSON implements json.Marshaler.
func (s Stored) MarshalJSON() ([]byte, error) { return s.JSON, nil }

// RecordVersion is the version of the record.
func (s Stored) RecordVersion() uint64 { return s.Version }

// Prep is what a command's Prepare may use.
type Prep interface {
	Actor() Actor
	Now() time.Time
	// ClockTrusted reports whether the node's clock may make things due. A time that is printed where it may not says so.
	ClockTrusted() bool
	// View is what the node shows at this moment. It is for limits, which are checked when a node says yes and must not be refused once a
	// number is taken: CutOff of it is whether the node hears no leader now. What is decided here is not part of the intent, so nothing
	// that must hold may rest on it.
	View() View
	// FirstID is what the first tx.NewID(prefix) of the handler will return: a sealed value is bound to its record.
	FirstID(prefix string) ID
	// Seal encrypts plaintext for the actor's tenant, bound to record and field.
	Seal(record ID, field string, plaintext Secret) (string, error)
	// Digest is a slow, salted one-way hash (argon2id, PHC string form) for what people type and no protocol needs back.
	Digest(plaintext Secret) (string, error)
	// Random returns n octets from the system's source.
	Random(n int) []byte
	// Once adds a member to the first answer only. It is never stored, so a replayed answer lacks it.
	Once(field string, value Secret)
	// Next takes the next number of a series owned by this node; a number is used at most once, also after a crash.
	Next(series string) (uint64, error)
	// Link takes the next number of a series owned by this node, chains it to the one before and signs it with what it numbers. A command
	// that takes one must not be refused afterwards: the number would be missing from the chain. It is of class Money: repeated with the
	// same key after a failure, what Prepare made the first time is used again, numbers included. A dry run takes none.
	Link(series string, content func(number uint64) any) (Link, error)
}

// None is the input or output of operations without one.
type None struct{}

// Op is a Command or Query with its types erased. Domains pass it on; transports read its declaration; only the kernel runs it.
type Op struct {
	Name, Scope, Summary string
	Class                Class
	Command              bool // false: a query
	Offline              bool
	Level                int64 // feature level that it needs; 0: none
	NeedsMatch           bool
	Matches              bool // If-Match is honoured
	In, Out              *Schema

	err     error
	decode  func(raw []byte) (any, error)
	prepare func(Prep, any) error
	handle  func(Tx, any) (any, error)
	again   func(Tx, any) error
	ask     func(View, any) (any, error)
	record  func(any) ID
	shows   AnyTable     // the answer is a record of it,
	shown   func(any) ID // with this id
}

// Op erases the command's types. The program holds a copy of it for each command, so what does not depend on the types stands in newOp and in
// Module.Check.
func (c Command[In, Out]) Op() *Op {
	op := newOp(c.Name, c.Scope, c.Summary, c.Class, decoder[In](), SchemaOf[In], SchemaOf[Out])
	op.Command, op.Offline, op.Level, op.NeedsMatch, op.Matches = true, c.Offline, c.Level, c.NeedsMatch, c.Record != nil
	if handle := c.Handle; handle != nil {
		op.handle = func(tx Tx, in any) (any, error) { return handle(tx, *in.(*In)) }
	}
	if prepare := c.Prepare; prepare != nil {
		op.prepare = func(p Prep, in any) error { return prepare(p, in.(*In)) }
	}
	if again := c.Again; again != nil {
		op.again = func(tx Tx, in any) error { return again(tx, *in.(*In)) }
	}
	if record := c.Record; record != nil {
		op.record = func(in any) ID { return record(*in.(*In)) }
	}
	return op
}

// Within joins a transaction that is already open: how a flow lets two domains meet in one commit.
func (c Command[In, Out]) Within(tx Tx, in In) (Out, error) { return c.Handle(tx, in) }

// Op erases the query's types.
func (q Query[In, Out]) Op() *Op {
	op := newOp(q.Name, q.Scope, q.Summary, q.Class, decoder[In](), SchemaOf[In], SchemaOf[Out])
	if handle := q.Handle; handle != nil {
		op.ask = func(v View, in any) (any, error) { return handle(v, *in.(*In)) }
	}
	if record := q.Record; record != nil {
		op.shown = func(in any) ID { return record(*in.(*In)) }
	}
	op.shows = q.Shows
	return op
}

func newOp(name, scope, summary string, class Class, decode func([]byte) (any, error), in, out func() (*Schema, error)) *Op {
	op := &Op{Name: name, Scope: scope, Summary: summary, Class: class, decode: decode}
	var err error
	if op.In, err = in(); err != nil {
		op.err = fmt.Errorf("input: %w", err)
	}
	if op.Out, err = out(); err != nil {
		op.err = errors.Join(op.err, fmt.Errorf("output: %w", err))
	}
	return op
}

// Decode reads an input from JSON. The gateway has checked it against the schema before; here only types matter.
func (op *Op) Decode(raw []byte) (in any, err error) { return op.decode(raw) }

// Prepare runs the command's Prepare on a decoded input, if it has one.
func (op *Op) Prepare(p Prep, in any) error {
	if op.prepare == nil {
		return nil
	}
	return op.prepare(p, in)
}

// Handle runs a command on a decoded input.
func (op *Op) Handle(tx Tx, in any) (any, error) { return op.handle(tx, in) }

// Again runs the command's Again on a decoded input, if it has one.
func (op *Op) Again(tx Tx, in any) error {
	if op.again == nil {
		return nil
	}
	return op.again(tx, in)
}

// Ask runs a query on a decoded input.
func (op *Op) Ask(v View, in any) (any, error) {
	if op.shows != nil {
		if raw, version, err := op.shows.Raw(v, op.shown(in)); err == nil && raw != nil {
			return Stored{raw, version}, nil
		}
	}
	return op.ask(v, in)
}

// Record is the record that If-Match speaks of, "" for none.
func (op *Op) Record(in any) ID {
	if op.record == nil {
		return ""
	}
	return op.record(in)
}

// Domain, Noun and Verb are the parts of the operation's name.
func (op *Op) Domain() string { d, _, _ := strings.Cut(op.Name, "."); return d }

// Noun is the part of the name between domain and verb.
func (op *Op) Noun() string {
	_, rest, _ := strings.Cut(op.Name, ".")
	i := strings.LastIndexByte(rest, '.')
	return rest[:max(i, 0)]
}

// Verb is the last part of the name.
func (op *Op) Verb() string { return op.Name[strings.LastIndexByte(op.Name, '.')+1:] }

// RecordVersion is the version of the record, for answers that show one.
func (m Meta) RecordVersion() uint64 { return m.Version }

// VersionOf is the ETag of an answer that shows one record, ok false for others.
func VersionOf(out any) (version uint64, ok bool) {
	r, ok := out.(interface{ RecordVersion() uint64 })
	if !ok {
		return 0, false
	}
	return r.RecordVersion(), true
}

// Request is an intent on its way in: one command, or several as an atomic batch.
type Request struct {
	Key     string // the client's Idempotency-Key, "" to have one minted
	Actor   Actor
	Calls   []Call
	IfMatch uint64 // record version for the only call, 0 for none
	DryRun  bool   // evaluate and answer, commit nothing
}

// Call names an operation and its input: JSON bytes, or a value of the operation's input type.
type Call struct {
	Op string          `json:"op"`
	In json.RawMessage `json:"in"`
}

// Reply is the answer to a Request.
type Reply struct {
	Operation  string // operation id: the client's key or the minted one
	Version    uint64 // the version whose commit holds the effects
	Replayed   bool   // the first answer, given again
	Results    []json.RawMessage
	Once       []map[string]string // per call: members for the first answer only, nil for none
	State      string              // committed, pending, conflict or dry_run
	Durability string              // node, cluster or noc: how far it is durable now
	Plan       *Plan               // for a dry run
	Conflict   ID                  // with the state conflict: where it waits for a decision
	Records    []ID                // what the effects wrote or removed, for the audit; not part of a replayed answer
}

// Plan is what a dry run would have done.
type Plan struct {
	Version uint64       `json:"version" doc:"The state it was evaluated on."`
	Changes []PlanChange `json:"changes"`
	Events  []PlanEvent  `json:"events"`
}

// PlanChange is one record a dry run would write; Before or After is absent for created or removed records.
type PlanChange struct {
	Table  string          `json:"table"`
	ID     ID              `json:"id"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

// PlanEvent is one event a dry run would emit.
type PlanEvent struct {
	Type    string          `json:"type"`
	Subject ID              `json:"subject"`
	Changed json.RawMessage `json:"changed"`
}

// Executor runs operations to their end, wherever the caller stands: evaluated, replicated, applied.
type Executor interface {
	// Do runs a command or an atomic batch.
	Do(ctx context.Context, r Request) (Reply, error)
	// Ask answers a query from the local state, waiting (within ctx) until it has reached minVersion.
	Ask(ctx context.Context, a Actor, op string, in json.RawMessage, minVersion uint64) (out any, version uint64, err error)
	// ReadVersion returns a version that includes everything acknowledged by any node before the call: asked with it as minVersion, a query
	// is linearizable. It needs the leader.
	ReadVersion(ctx context.Context) (version uint64, err error)
}

// Do encodes in and runs one command: what workers and flows call.
func Do(ctx context.Context, x Executor, a Actor, key, op string, in any) (Reply, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return Reply{}, fmt.Errorf("encode input of %s: %w", op, err)
	}
	return x.Do(ctx, Request{Key: key, Actor: a, Calls: []Call{{Op: op, In: raw}}})
}
