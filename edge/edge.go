// Package edge is the vocabulary that every domain of WISPGate speaks: views and transactions, typed tables, commands and queries,
// events and flows, errors, and the Module in which a domain declares what it offers.
//
// It depends on the standard library only and performs no I/O. The rooms around it give the words their meaning: edge/exec
// evaluates commands, sync/cluster replicates what they wrote, gateway turns declarations into routes. DESIGN.md in this folder
// says why each word exists.
package edge

import (
	"slices"
	"strings"
	"time"
)

// System is the tenant that owns what belongs to the platform itself (tenants, stream marks). No API credential belongs to it.
const System = "system"

// View is one consistent look at the replicated state (with the node's overlay of pending intents, where there is one) on behalf
// of one actor. It is valid during the call it was handed to; two reads of one View agree. Domains read through Table, Index and
// Derived, which build the keys; Get and Scan are for the kernel.
type View interface {
	// Actor is who asks.
	Actor() Actor
	// Version is the state's version: the number of entries applied to it.
	Version() uint64
	// Now is the only clock a handler may use. It never runs backwards across leaders.
	Now() time.Time
	// Get returns the value at key, nil where there is none. The bytes must not be changed.
	Get(key string) ([]byte, error)
	// Scan visits the keys that begin with prefix and are not less than from, in order, until visit says no more.
	Scan(prefix, from string, visit func(key string, val []byte) (more bool, err error)) error
}

// Tx is a View that can write. It exists only where a command is evaluated: what it wrote is replicated, never the code that ran.
// A handler that returns an error leaves nothing behind.
type Tx interface {
	View
	// Put and Delete change one key. Domains use Table.Put and Table.Delete.
	Put(key string, val []byte)
	Delete(key string)
	// Emit adds an event to the commit: a row beside the effects, so both happen or neither.
	Emit(Event)
	// NewID returns prefix_UUID, a pure function of the operation id and the number of calls before it: evaluated again, the same ids.
	NewID(prefix string) ID
	// Acknowledged reports that a node has already said yes to this intent: record the odd case, do not refuse it.
	Acknowledged() bool
}

// Actor is who asks and what they may do, settled before anything runs.
type Actor struct {
	Tenant  string   `json:"tenant"`
	Subject string   `json:"subject"`          // client, user or system part, e.g. "cli_…" or "system:due"
	Key     string   `json:"key,omitempty"`    // id of the credential that was shown
	Scopes  []string `json:"scopes,omitempty"` // sorted
	Sites   []string `json:"sites,omitempty"`  // empty: every site of the tenant
}

// SystemActor is the actor of the kernel's and the flows' own work inside a tenant. It holds every scope.
func SystemActor(tenant, part string) Actor {
	return Actor{Tenant: tenant, Subject: "system:" + part, Scopes: []string{"all:read", "all:write"}}
}

// Has reports whether the actor holds scope. "all:read" and "all:write" hold every scope of that verb, today's and tomorrow's;
// "public" is held by everybody.
func (a Actor) Has(scope string) bool {
	if scope == Public || slices.Contains(a.Scopes, scope) {
		return true
	}
	_, verb, _ := strings.Cut(scope, ":")
	return (verb == "read" || verb == "write") && slices.Contains(a.Scopes, "all:"+verb)
}

// Public is the scope of operations that need no credential. It is a word, not an omission.
const Public = "public"

// Class is the rate and care class of an operation: all gateway policy (cost, body cap, timeout, audit) hangs on it.
type Class string

// The classes, from the cheapest read to the rarest write.
const (
	Read      Class = "read"      // one record or one page
	Personal  Class = "personal"  // reads of people's names, numbers and addresses: audited like a change
	Report    Class = "report"    // reads that cost: explain, verification, exports
	Write     Class = "write"     // an ordinary change
	Provision Class = "provision" // changes what a subscriber may do on the network
	Money     Class = "money"     // moves money or evidence; never shed before reads
	Admin     Class = "admin"     // keys, tenants, secrets
)

// Classes lists every class.
func Classes() []Class { return []Class{Read, Personal, Report, Write, Provision, Money, Admin} }
