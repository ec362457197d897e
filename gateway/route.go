package gateway

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"wispgate/edge"
	"wispgate/gateway/plan"
)

// route is a compiled edge.Route.
type route struct {
	edge.Route
	op         *edge.Op
	care       care
	params     []*plan.Param          // of the path, in order
	query      map[string]*plan.Param // of the query; nil: only the reserved ones
	required   []string               // of the query
	body       *plan.Plan             // nil: takes no body
	in         *plan.Plan             // the input whole, for batches
	hasVersion bool                   // the answer is one record: its version is the ETag
	once       bool                   // the first answer may hold a secret that no later one does
	location   string                 // of what a creation made: the collection's path and a slash
	own        *own                   // the gateway's own operation, instead of op
	alias      string                 // tells several routes of one operation apart
	place      int                    // of the class in edge.Classes
}

// own is an operation of the gateway itself.
type own struct {
	name, scope, summary string
	write                bool
	run                  func(ctx context.Context, x *exchange) *edge.Error
}

// anyScope lets every valid credential in, and nobody without one.
const anyScope = "any"

func (rt *route) scope() string {
	if rt.own != nil {
		return rt.own.scope
	}
	return rt.op.Scope
}

func (rt *route) class() edge.Class {
	switch {
	case rt.op != nil:
		return rt.op.Class
	case rt.own.write:
		return edge.Write
	}
	return edge.Report
}

func (rt *route) writes() bool { return rt.op != nil && rt.op.Command || rt.own != nil && rt.own.write }

// reserved are the query parameters that the gateway itself reads.
const (
	paramMinVersion = "min_version" // reads wait until the node has reached this version
	paramStrong     = "consistency" // strong: reads go through the leader
	paramDryRun     = "dry_run"     // commands are evaluated and answered, not committed
)

// fixed are the paths that the gateway answers itself.
const (
	batchPath   = "/api/v1/batch"
	openapiPath = "/api/v1/openapi.json"
	eventsPath  = "/api/v1/events.json"
	reasonsPath = "/api/v1/reasons.json"
)

// compile turns the modules' declarations into routes.
func (s *Server) compile() (errs []error) {
	s.reasons = append(edge.KernelReasons(), Reasons()...)
	codes := map[string]bool{}
	for _, r := range s.reasons {
		codes[r.Code] = true
	}
	for _, m := range s.cfg.Modules {
		for _, r := range m.Reasons {
			if codes[r.Code] {
				errs = append(errs, fmt.Errorf("reason %s of module %s: the gateway or kernel has one of that name", r.Code, m.Name))
			}
			s.reasons = append(s.reasons, r)
		}
		for _, op := range m.Ops {
			errs = append(errs, s.compileOp(op)...)
		}
		for _, r := range m.Routes {
			if r.Op == nil || s.ops[r.Op.Name] == nil {
				continue // edge.Check has said so
			}
			rt, found := compileRoute(r)
			for _, err := range found {
				errs = append(errs, fmt.Errorf("route %s %s: %w", r.Method, r.Path, err))
			}
			s.routes = append(s.routes, rt)
		}
	}
	s.routes = append(s.routes, s.ownRoutes()...)
	errs = append(errs, collisions(s.routes)...)
	sort.SliceStable(s.routes, func(i, j int) bool { return s.routes[i].Path < s.routes[j].Path })
	used := map[string]int{}
	for _, rt := range s.routes {
		s.tree.add(rt)
		rt.place = slices.Index(edge.Classes(), rt.class())
		if used[rt.name()]++; used[rt.name()] > 1 {
			rt.alias = "." + strconv.Itoa(used[rt.name()])
		}
		if rt.Created && hasRoute(s.routes, "GET", rt.Path+"/{") {
			rt.location = rt.Path + "/"
		}
	}
	for _, p := range s.cfg.Pages {
		if !strings.HasPrefix(p.Path, "/") || strings.HasPrefix(p.Path, "/api/") || p.Type == "" {
			errs = append(errs, fmt.Errorf("page %q: the path must begin with / and stand outside /api, and have a type", p.Path))
		}
	}
	return errs
}

// compileOp makes the whole-input plan of an operation: what a batch item is judged by.
func (s *Server) compileOp(op *edge.Op) (errs []error) {
	rt := &route{op: op}
	var known bool
	if rt.care, known = careFor(op); !known {
		return []error{fmt.Errorf("operation %s: class %q is unknown", op.Name, op.Class)}
	}
	var err error
	if rt.in, err = plan.Compile(op.In); err != nil {
		return []error{fmt.Errorf("operation %s: input: %w", op.Name, err)}
	}
	s.ops[op.Name] = rt
	return nil
}

func compileRoute(r edge.Route) (rt *route, errs []error) {
	rt = &route{Route: r, op: r.Op}
	rt.care, _ = careFor(r.Op)
	whole, err := plan.Compile(r.Op.In)
	if err != nil {
		return rt, []error{err}
	}
	rt.in = whole
	names := r.PathParams()
	if len(names) > maxParams {
		errs = append(errs, fmt.Errorf("the path has more than %d parameters", maxParams))
	}
	for _, name := range names {
		p, ok := whole.Param(name)
		if !ok || p.List {
			errs = append(errs, fmt.Errorf("path parameter %s must be a string, an integer or a boolean", name))
			continue
		}
		rt.params = append(rt.params, p)
	}
	rest, err := plan.Compile(r.Op.In, names...)
	if err != nil {
		return rt, append(errs, err)
	}
	rt.once = r.Op.Class == edge.Admin
	rt.hasVersion = r.Op.Out != nil && r.Op.Out.Field("version") != nil && r.Op.Out.Field("id") != nil
	if r.Method != "GET" && r.Method != "DELETE" {
		rt.body = rest
		if r.Op.In.Field(paramDryRun) != nil {
			errs = append(errs, fmt.Errorf("the input's member %s is a parameter of the gateway", paramDryRun))
		}
		return rt, errs
	}
	params, bad, ok := rest.Params()
	if !ok {
		return rt, append(errs, fmt.Errorf("member %s cannot be a query parameter: it must be a scalar or a list of scalars", bad))
	}
	rt.query = map[string]*plan.Param{}
	for _, p := range params {
		if p.Name == paramMinVersion || p.Name == paramStrong || p.Name == paramDryRun {
			errs = append(errs, fmt.Errorf("the input's member %s is a parameter of the gateway", p.Name))
		}
		rt.query[p.Name] = p
		if p.Required {
			rt.required = append(rt.required, p.Name)
		}
	}
	return rt, errs
}

// hasRoute reports whether there is a route of the method at prefix and one parameter.
func hasRoute(routes []*route, method, prefix string) bool {
	for _, rt := range routes {
		if rest, ok := strings.CutPrefix(rt.Path, prefix); ok && rt.Method == method && strings.HasSuffix(rest, "}") && !strings.Contains(rest, "/") {
			return true
		}
	}
	return false
}

// collisions finds routes of one method that match the same paths.
func collisions(routes []*route) (errs []error) {
	seen := map[string]string{}
	for _, rt := range routes {
		segments := strings.Split(rt.Path, "/")
		for i, s := range segments {
			if strings.HasPrefix(s, "{") {
				_, action, _ := strings.Cut(s, "}")
				segments[i] = "{}" + action
			}
		}
		form := rt.Method + " " + strings.Join(segments, "/")
		if other, ok := seen[form]; ok {
			errs = append(errs, fmt.Errorf("route %s %s: collides with %s", rt.Method, rt.Path, other))
		}
		seen[form] = rt.Path
	}
	return errs
}
