package identity

import (
	"slices"
	"strings"

	"wispgate/edge"
)

// ClientKind says what stands behind a client.
type ClientKind string

// The kinds of client.
const (
	Service ClientKind = "service"
	Person  ClientKind = "person"
	Partner ClientKind = "partner"
	App     ClientKind = "app"
)

// Values lists the kinds, for the schema.
func (ClientKind) Values() []string { return []string{"service", "person", "partner", "app"} }

// ClientStatus says whether a client may ask.
type ClientStatus string

// The states of a client.
const (
	Enabled  ClientStatus = "active"
	Disabled ClientStatus = "disabled"
)

// Values lists the states, for the schema.
func (ClientStatus) Values() []string { return []string{string(Enabled), string(Disabled)} }

// Client is a program or person that may ask. Its scopes and sites bound those of all its keys, and its throttle is shared by them.
type Client struct {
	edge.Meta
	Name   string       `json:"name" check:"max=120" doc:"Name people use." example:"Billing export"`
	Kind   ClientKind   `json:"kind" doc:"What stands behind it." example:"service"`
	Scopes []string     `json:"scopes" check:"max=64 item.max=64" doc:"What its keys may do at most." example:"crm:read"`
	Sites  []edge.ID    `json:"sites,omitempty" check:"max=64 item.prefix=sit" doc:"Sites at whose nodes its keys are valid; empty: all."`
	Plan   string       `json:"plan,omitempty" check:"max=32" doc:"Name of a pool of requests in the nodes' configuration that it shares with others." example:"partners"`
	Limits *Limits      `json:"limits,omitempty" doc:"Throttle over all its keys; absent: the node's default."`
	Status ClientStatus `json:"status" doc:"The keys of a disabled client are refused." example:"active"`
}

// Reasons of clients.
var (
	ErrClientInvalid  = edge.Reason{Code: "client_invalid", Says: "The client cannot be stored as described", Fix: "Correct the named fields"}
	ErrClientDisabled = edge.Reason{Code: "client_not_active", Says: "The client is disabled", Fix: "Enable it first, or use another client"}
	ErrClientSelf     = edge.Reason{Code: "client_own", Says: "A credential cannot disable the client it belongs to", Fix: "Use a key of another client, so that nobody is locked out by mistake"}
)

// normalise gives lists their one order.
func (c *Client) normalise() {
	c.Name, c.Scopes, c.Sites = strings.TrimSpace(c.Name), tidy(c.Scopes), tidy(c.Sites)
}

func (c *Client) check() error {
	bad := checkScopes(c.Scopes)
	if c.Name == "" {
		bad = append(bad, edge.Field("/name", "is empty", "give the name people use"))
	}
	if len(c.Scopes) == 0 {
		bad = append(bad, edge.Field("/scopes", "is empty", "name at least one scope"))
	}
	if !slices.Contains(c.Kind.Values(), string(c.Kind)) {
		bad = append(bad, edge.Field("/kind", "is not a kind of client", "use one of "+strings.Join(c.Kind.Values(), ", ")))
	}
	if bad = append(bad, c.Limits.check()...); len(bad) > 0 {
		return ErrClientInvalid.Error(edge.Invalid, bad...)
	}
	return nil
}

var clients = &edge.Table[Client]{
	Name: "identity.client", Prefix: "cli", Meta: func(c *Client) *edge.Meta { return &c.Meta },
	Indexes: []edge.Index[Client]{
		{Name: "status", Keys: func(c *Client) []string { return []string{string(c.Status)} }},
		{Name: "kind", Keys: func(c *Client) []string { return []string{string(c.Kind)} }},
	},
}

// ClientCreated says that a client was made.
type ClientCreated struct {
	Client edge.ID  `json:"client"`
	Scopes []string `json:"scopes"`
}

// ClientUpdated says that fields of a client changed.
type ClientUpdated struct {
	Client edge.ID  `json:"client"`
	Fields []string `json:"fields"`
}

// ClientDisabled says that the keys of a client are refused from now on.
type ClientDisabled struct {
	Client edge.ID `json:"client"`
}

// ClientEnabled says that the keys of a client are accepted again.
type ClientEnabled struct {
	Client edge.ID `json:"client"`
}

// EventName implements edge.Event.
func (ClientCreated) EventName() string { return "identity.client.created" }

// Subject implements edge.Event.
func (e ClientCreated) Subject() edge.ID { return e.Client }

// EventName implements edge.Event.
func (ClientUpdated) EventName() string { return "identity.client.updated" }

// Subject implements edge.Event.
func (e ClientUpdated) Subject() edge.ID { return e.Client }

// EventName implements edge.Event.
func (ClientDisabled) EventName() string { return "identity.client.disabled" }

// Subject implements edge.Event.
func (e ClientDisabled) Subject() edge.ID { return e.Client }

// EventName implements edge.Event.
func (ClientEnabled) EventName() string { return "identity.client.enabled" }

// Subject implements edge.Event.
func (e ClientEnabled) Subject() edge.ID { return e.Client }
