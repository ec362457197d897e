package edge

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Module is everything a domain offers, in one value, returned by a function and put into a slice by edge/app. Dispatch, HTTP routes,
// scope checks, schemas, OpenAPI, CLI verbs, audit names, rate classes, the event catalogue and the docs follow from it.
type Module struct {
	Name    string // the domain: first part of every name in it
	Summary string // one sentence for the docs
	Tables  []AnyTable
	Ops     []*Op // operations without a route, too
	Routes  []Route
	Events  []Event // one zero value of each
	Reasons []Reason
	Workers []Worker
	Watches []Watch
}

// Route binds an operation to a method and path; it is data, and the gateway makes the handler. Path parameters in braces fill members
// of the input by JSON name; for GET and DELETE the other members come from the query, else from the body.
type Route struct {
	Method, Path string // POST, /api/v1/crm/customers/{id}:archive
	Op           *Op
	Created      bool // answers 201 instead of 200
}

// Where says on which nodes a worker runs.
type Where int

// Where workers run.
const (
	EveryNode Where = iota
	OnLeader
)

// Worker is long-running work with a name, supervised with back-off. It changes state only through the Executor, in batches of at most
// about 500 records. Run returns nil when ctx ends.
type Worker struct {
	Name string
	On   Where
	Run  func(ctx context.Context, x Executor) error
}

// Change is a record as an applied entry (or the overlay) left it; Val is nil when it was removed.
type Change struct {
	Tenant, Table string
	ID            ID
	Val           []byte
}

// Watch feeds an in-memory index: first every record of the tables (reset true on the first call), then each commit's changes in
// order. Apply must be quick and must not call the Executor; Val may be kept, not changed.
type Watch struct {
	Name   string
	Tables []string
	Apply  func(reset bool, version uint64, changes []Change)
}

var (
	nameForm  = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)
	scopeForm = regexp.MustCompile(`^([a-z][a-z0-9_]*:[a-z][a-z0-9_]*|public)$`)
	pathForm  = regexp.MustCompile(`^/api/v1(/(\{[a-z_]+\}|[a-z0-9-]+|openapi\.json))*(:[a-z-]+)?$`)
	paramForm = regexp.MustCompile(`\{([a-z_]+)\}`)
)

// PathParams lists the parameters of a route's path in order.
func (r Route) PathParams() []string {
	var names []string
	for _, m := range paramForm.FindAllStringSubmatch(r.Path, -1) {
		names = append(names, m[1])
	}
	return names
}

// Check refuses what must not start: duplicates, missing scopes, unbounded inputs, dangling routes, undeclared commands. It returns
// all findings at once.
func Check(modules []Module) error {
	c := checker{ops: map[string]*Op{}, seen: map[string]bool{}}
	for i := range modules {
		c.module(&modules[i])
	}
	for _, m := range modules {
		for _, t := range m.Tables {
			if run := t.DueRun(); run != "" && c.ops[run] == nil {
				c.add("table %s: due command %s is not declared", t.TableName(), run)
			}
		}
	}
	return errors.Join(c.errs...)
}

type checker struct {
	errs []error
	ops  map[string]*Op
	seen map[string]bool
}

func (c *checker) add(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// once records a name of a kind and complains about the second.
func (c *checker) once(kind, name string) {
	if c.seen[kind+" "+name] {
		c.add("%s %s is declared twice", kind, name)
	}
	c.seen[kind+" "+name] = true
}

func (c *checker) module(m *Module) {
	c.once("module", m.Name)
	for _, t := range m.Tables {
		c.once("table", t.TableName())
		c.once("id prefix", t.IDPrefix())
		c.own(m, "table", t.TableName())
		c.errs = append(c.errs, t.Check()...)
	}
	for _, op := range m.Ops {
		c.once("operation", op.Name)
		c.op(m, op)
		c.ops[op.Name] = op
	}
	for _, r := range m.Routes {
		c.route(m, r)
	}
	for _, e := range m.Events {
		c.once("event", e.EventName())
		c.own(m, "event", e.EventName())
		if _, err := SchemaFor(e); err != nil {
			c.add("event %s: %w", e.EventName(), err)
		}
	}
	for _, r := range m.Reasons {
		c.once("reason", r.Code)
		if r.Code == "" || r.Says == "" || r.Fix == "" {
			c.add("reason %q of module %s: code, sentence and fix must be said", r.Code, m.Name)
		}
	}
	for _, w := range m.Workers {
		c.once("worker", w.Name)
		if w.Name == "" || w.Run == nil {
			c.add("a worker of module %s lacks its name or Run", m.Name)
		}
	}
}

func (c *checker) own(m *Module, kind, name string) {
	if !nameForm.MatchString(name) || !strings.HasPrefix(name, m.Name+".") {
		c.add("%s %q must be named %s.…", kind, name, m.Name)
	}
}

func (c *checker) op(m *Module, op *Op) {
	c.own(m, "operation", op.Name)
	if op.err != nil {
		c.add("operation %s: %w", op.Name, op.err)
	}
	if op.handle == nil && op.ask == nil {
		c.add("operation %s: Handle is missing", op.Name)
	}
	if op.NeedsMatch && !op.Matches {
		c.add("operation %s: NeedsMatch without Record", op.Name)
	}
	if (op.shows == nil) != (op.shown == nil) {
		c.add("operation %s: of Shows and Record one is missing", op.Name)
	}
	if !scopeForm.MatchString(op.Scope) {
		c.add("operation %s: scope %q is missing or misspelt; a public operation says %q", op.Name, op.Scope, Public)
	}
	if op.Summary == "" {
		c.add("operation %s: the summary is missing", op.Name)
	}
	if !slices.Contains(Classes(), op.Class) {
		c.add("operation %s: class %q is unknown", op.Name, op.Class)
	}
	if op.In != nil {
		for _, err := range op.In.Unbounded() {
			c.add("operation %s: input %w", op.Name, err)
		}
	}
}

func (c *checker) route(m *Module, r Route) {
	place := r.Method + " " + r.Path
	c.once("route", r.Method+" "+paramForm.ReplaceAllString(r.Path, "{}"))
	if !pathForm.MatchString(r.Path) {
		c.add("route %s: the path must be /api/v1/… in lower case", place)
	}
	if !slices.Contains([]string{"GET", "POST", "PUT", "PATCH", "DELETE"}, r.Method) {
		c.add("route %s: the method is unknown", place)
	}
	if r.Op == nil || c.ops[r.Op.Name] == nil {
		c.add("route %s: its operation is not listed in module %s", place, m.Name)
		return
	}
	if r.Op.Command == (r.Method == "GET") {
		c.add("route %s: commands are never GET, queries always", place)
	}
	for _, p := range r.PathParams() {
		if r.Op.In == nil || r.Op.In.Field(p) == nil {
			c.add("route %s: the input of %s has no member %q", place, r.Op.Name, p)
		}
	}
}
