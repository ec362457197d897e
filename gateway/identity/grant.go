package identity

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"wispgate/edge"
)

// ErrGrant refuses to hand on what one does not hold.
var ErrGrant = edge.Reason{Code: "grant_exceeded", Says: "A credential cannot grant more than it holds itself", Fix: "Leave out the named scopes, sites or addresses, or ask someone who holds them"}

var scopeForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}:[a-z][a-z0-9_]{0,30}$`)

// tidy sorts a list and drops what comes twice.
func tidy[S ~string](list []S) []S {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// checkScopes refuses what is not spelt like a scope.
func checkScopes(scopes []string) (bad []edge.FieldError) {
	for i, s := range scopes {
		if !scopeForm.MatchString(s) {
			bad = append(bad, edge.Field(fmt.Sprintf("/scopes/%d", i), "is not a scope", "write domain:verb, such as crm:read"))
		}
	}
	return bad
}

// holds reports whether the scopes held include scope.
func holds(held []string, scope string) bool { return edge.Actor{Scopes: held}.Has(scope) }

// commonScopes are the scopes that both lists hold.
func commonScopes(a, b []string) []string {
	var both []string
	for _, s := range a {
		if holds(b, s) {
			both = append(both, s)
		}
	}
	for _, s := range b {
		if holds(a, s) {
			both = append(both, s)
		}
	}
	return tidy(both)
}

// commonSites are the sites that both lists allow, where an empty list allows all; none says that nothing is left.
func commonSites(a, b []edge.ID) (both []edge.ID, none bool) {
	switch {
	case len(a) == 0:
		return b, false
	case len(b) == 0:
		return a, false
	}
	for _, s := range a {
		if slices.Contains(b, s) {
			both = append(both, s)
		}
	}
	return both, len(both) == 0
}

// mayGrant refuses a grant of scopes at sites that the actor does not hold: the rule that keeps every key below its maker's.
func mayGrant(a edge.Actor, scopes []string, sites []edge.ID) error {
	var over []edge.FieldError
	for i, s := range scopes {
		if !a.Has(s) {
			over = append(over, edge.Field(fmt.Sprintf("/scopes/%d", i), "is not held by the credential that grants it", "leave it out"))
		}
	}
	if len(a.Sites) > 0 && len(sites) == 0 {
		over = append(over, edge.Field("/sites", "would mean every site", "name sites of the credential's own"))
	}
	for i, s := range sites {
		if len(a.Sites) > 0 && !slices.Contains(a.Sites, string(s)) {
			over = append(over, edge.Field(fmt.Sprintf("/sites/%d", i), "is not a site of the credential that grants it", "leave it out"))
		}
	}
	if over != nil {
		return ErrGrant.Error(edge.Denied, over...)
	}
	return nil
}

// mayGrantFrom refuses a key that would work from addresses at which its maker's own key does not.
func mayGrantFrom(v edge.View, allow []netip.Prefix) error {
	maker, ok, err := keys.Find(v, edge.ID(v.Actor().Key))
	if err != nil || !ok || len(maker.Allow) == 0 {
		return err
	}
	if len(allow) == 0 {
		return ErrGrant.Error(edge.Denied, edge.Field("/allow", "would mean every address", "name networks within those of the credential's own"))
	}
	for i, p := range allow {
		inside := func(m netip.Prefix) bool { return m.Bits() <= p.Bits() && m.Contains(p.Addr()) }
		if !slices.ContainsFunc(maker.Allow, inside) {
			return ErrGrant.Error(edge.Denied, edge.Field(fmt.Sprintf("/allow/%d", i), "is wider than the credential that grants it", "name a network within its own"))
		}
	}
	return nil
}
