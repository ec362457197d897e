package app

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"wispgate/edge"
)

// source is what a package's declarations mention: by name, the identifiers and the composite literals in each top-level declaration.
// Methods go by their bare name, so what is reached from a declaration is never too little and may be too much.
type source struct {
	mentions map[string]map[string]bool
	literals map[string]map[string]bool
	events   map[string]string // type name to event name
}

func readSource(t *testing.T, dir string) *source {
	t.Helper()
	s := &source{map[string]map[string]bool{}, map[string]map[string]bool{}, map[string]string{}}
	packages, err := parser.ParseDir(token.NewFileSet(), dir, nil, 0) //nolint:staticcheck // build constraints do not matter here
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		for name, f := range p.Files {
			if !strings.HasSuffix(name, "_test.go") {
				s.file(f)
			}
		}
	}
	return s
}

func (s *source) file(f *ast.File) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.note(d.Name.Name, d.Body)
			if d.Name.Name == "EventName" && d.Recv != nil {
				if name := literalResult(d); name != "" {
					s.events[d.Recv.List[0].Type.(*ast.Ident).Name] = name
				}
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if v, ok := spec.(*ast.ValueSpec); ok {
					for i, n := range v.Names {
						if i < len(v.Values) {
							s.note(n.Name, v.Values[i])
						}
					}
				}
			}
		}
	}
}

func literalResult(d *ast.FuncDecl) string {
	if ret, ok := d.Body.List[0].(*ast.ReturnStmt); ok {
		if lit, ok := ret.Results[0].(*ast.BasicLit); ok {
			name, _ := strconv.Unquote(lit.Value)
			return name
		}
	}
	return ""
}

func (s *source) note(name string, body ast.Node) {
	if s.mentions[name] == nil {
		s.mentions[name], s.literals[name] = map[string]bool{}, map[string]bool{}
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if id, ok := n.Type.(*ast.Ident); ok {
				s.literals[name][id.Name] = true
			}
		case *ast.Ident:
			s.mentions[name][n.Name] = true
		}
		return true
	})
}

// reach lists the declarations that can be reached from one.
func (s *source) reach(from string) map[string]bool {
	seen, todo := map[string]bool{from: true}, []string{from}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		for m := range s.mentions[name] {
			if s.mentions[m] != nil && !seen[m] {
				seen[m] = true
				todo = append(todo, m)
			}
		}
	}
	return seen
}

// emits lists the events that a declaration can emit.
func (s *source) emits(from string) []string {
	var names []string
	for d := range s.reach(from) {
		for typ := range s.literals[d] {
			if name := s.events[typ]; name != "" {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// flowEdges reads from flows.go which commands of which domains each same-commit flow can run, and from the domains which events those
// can emit: event to the events it may set off.
func flowEdges(t *testing.T, flows []edge.Flow) map[string][]string {
	t.Helper()
	domains := map[string]*source{}
	for _, d := range []string{"aaa", "billing", "crm", "inventory"} {
		domains[d] = readSource(t, "../../"+d)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "flows.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{map[string]map[string]bool{}, map[string]map[string]bool{}, map[string]string{}}
	s.file(f)
	runs := map[string][]string{} // function to the domain.Declaration it mentions
	collect := func(name string, body ast.Node) {
		ast.Inspect(body, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && domains[pkg.Name] != nil && domains[pkg.Name].mentions[sel.Sel.Name] != nil {
					runs[name] = append(runs[name], pkg.Name+"."+sel.Sel.Name)
				}
			}
			return true
		})
	}
	next := 0
	edges := map[string][]string{}
	var whens []*ast.CallExpr
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "Flows" {
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "When" {
						whens = append(whens, call)
						return false
					}
				}
				return true
			})
		} else if ok {
			collect(fn.Name.Name, fn.Body)
		}
	}
	for _, call := range whens {
		for flows[next].When == nil {
			next++
		}
		from := "flow " + flows[next].Name
		s.note(from, call.Args[1])
		collect(from, call.Args[1])
		for fn := range s.reach(from) {
			for _, run := range runs[fn] {
				domain, decl, _ := strings.Cut(run, ".")
				edges[flows[next].Event] = append(edges[flows[next].Event], domains[domain].emits(decl)...)
			}
		}
		next++
	}
	if next != len(flows) {
		t.Fatalf("flows.go shows %d same-commit flows, Flows() has %d", len(whens), len(flows))
	}
	return edges
}

// TestModulesFlowsEnd holds that no flow can set itself off, directly or through others, and that the longest chain stays within the
// kernel's bound. It reads the code, so a cycle that no test happens to run is found, too.
func TestModulesFlowsEnd(t *testing.T) {
	t.Parallel()
	edges := flowEdges(t, Flows())
	if got := edges["billing.subscription.terminated"]; !slices.Contains(got, "aaa.credential.revoked") || !slices.Contains(got, "aaa.entitlement.changed") {
		t.Fatalf("termination sets off %v: the reading of the code is broken", got)
	}
	var walk func(event string, path []string)
	walk = func(event string, path []string) {
		if slices.Contains(path, event) {
			t.Fatalf("flows form a cycle: %s > %s", strings.Join(path, " > "), event)
		}
		path = append(path, event)
		if len(path) > edge.MaxFlowDepth {
			t.Fatalf("flows chain deeper than %d: %s", edge.MaxFlowDepth, strings.Join(path, " > "))
		}
		next := slices.Clone(edges[event])
		slices.Sort(next)
		for _, e := range slices.Compact(next) {
			walk(e, slices.Clone(path))
		}
	}
	for event := range edges {
		walk(event, nil)
	}
}
