package identity

import (
	"slices"

	"wispgate/edge"
)

// NewClient is what a client is made from.
type NewClient struct {
	edge.Common
	Name   string     `json:"name" check:"min=1 max=120" doc:"Name people use." example:"Billing export"`
	Kind   ClientKind `json:"kind,omitempty" doc:"What stands behind it; service unless given." example:"service"`
	Scopes []string   `json:"scopes" check:"min=1 max=64 item.max=64" doc:"What its keys may do at most; none that the asking credential lacks." example:"crm:read"`
	Sites  []edge.ID  `json:"sites,omitempty" check:"max=64 item.prefix=sit" doc:"Sites at whose nodes its keys are valid; empty: all."`
	Plan   string     `json:"plan,omitempty" check:"max=32" doc:"Pool of requests in the nodes' configuration." example:"partners"`
	Limits *Limits    `json:"limits,omitempty" doc:"Throttle over all its keys; absent: the node's default."`
}

// CreateClient makes a client.
var CreateClient = edge.Command[NewClient, Client]{
	Name: "identity.client.create", Scope: "identity:write", Class: edge.Admin, Summary: "Make a client",
	Handle: func(tx edge.Tx, in NewClient) (Client, error) {
		c := Client{
			Meta: in.Meta(tx.NewID("cli")), Name: in.Name, Kind: in.Kind, Scopes: in.Scopes, Sites: in.Sites, Plan: in.Plan, Limits: in.Limits,
			Status: Enabled,
		}
		if c.Kind == "" {
			c.Kind = Service
		}
		err := c.create(tx)
		return c, err
	},
}

// create stores a new client, within what the actor holds.
func (c *Client) create(tx edge.Tx) error {
	c.normalise()
	if err := c.check(); err != nil {
		return err
	}
	if err := mayGrant(tx.Actor(), c.Scopes, c.Sites); err != nil {
		return err
	}
	if err := clients.Put(tx, c); err != nil {
		return err
	}
	tx.Emit(ClientCreated{c.ID, c.Scopes})
	return nil
}

// ClientChange carries the members of a client to change; what is absent stays.
type ClientChange struct {
	edge.CommonChange
	ID     edge.ID     `json:"id" check:"prefix=cli" doc:"The client."`
	Name   *string     `json:"name,omitempty" check:"min=1 max=120" doc:"Name people use." example:"Billing export"`
	Kind   *ClientKind `json:"kind,omitempty" doc:"What stands behind it." example:"partner"`
	Scopes *[]string   `json:"scopes,omitempty" check:"min=1 max=64 item.max=64" doc:"What its keys may do at most. Fewer scopes narrow every key at once." example:"crm:read"`
	Sites  *[]edge.ID  `json:"sites,omitempty" check:"max=64 item.prefix=sit" doc:"Sites at whose nodes its keys are valid; empty: all."`
	Plan   *string     `json:"plan,omitempty" check:"max=32" doc:"Pool of requests in the nodes' configuration." example:"partners"`
	Limits *Limits     `json:"limits,omitempty" doc:"Throttle over all its keys."`
}

// UpdateClient changes a client. Scopes and sites may be narrowed by anyone with the scope, and widened only to what the actor holds.
var UpdateClient = edge.Command[ClientChange, Client]{
	Name: "identity.client.update", Scope: "identity:write", Class: edge.Admin, Summary: "Change a client",
	Record: func(in ClientChange) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in ClientChange) (Client, error) {
		was, err := clients.Get(tx, in.ID)
		if err != nil {
			return Client{}, err
		}
		c := was
		in.Apply(&c.Meta)
		edge.Set(&c.Name, in.Name)
		edge.Set(&c.Kind, in.Kind)
		edge.Set(&c.Scopes, in.Scopes)
		edge.Set(&c.Sites, in.Sites)
		edge.Set(&c.Plan, in.Plan)
		if in.Limits != nil {
			c.Limits = in.Limits
		}
		c.normalise()
		if err := c.check(); err != nil {
			return Client{}, err
		}
		if err := c.mayBecome(tx.Actor(), &was); err != nil {
			return Client{}, err
		}
		fields, err := edge.Changed(&was, &c)
		if err != nil || len(fields) == 0 {
			return was, err
		}
		if err := clients.Put(tx, &c); err != nil {
			return Client{}, err
		}
		tx.Emit(ClientUpdated{c.ID, fields})
		return c, nil
	},
}

// mayBecome refuses a change that gives the client more than it had and than the actor holds.
func (c *Client) mayBecome(a edge.Actor, was *Client) error {
	scopes := make([]string, len(c.Scopes)) // gained ones at their place, so that the error points at them
	wider := false
	for i, s := range c.Scopes {
		if scopes[i] = edge.Public; !holds(was.Scopes, s) {
			scopes[i], wider = s, true
		}
	}
	if len(was.Sites) > 0 && (len(c.Sites) == 0 || slices.ContainsFunc(c.Sites, func(s edge.ID) bool { return !slices.Contains(was.Sites, s) })) {
		return mayGrant(a, c.Scopes, c.Sites) // everything it holds reaches further
	}
	if !wider {
		return nil
	}
	return mayGrant(a, scopes, c.Sites)
}

// ClientRef names a client.
type ClientRef struct {
	ID edge.ID `json:"id" check:"prefix=cli" doc:"The client."`
}

// DisableClient refuses all keys of a client from now on. Repeating it is success without effect.
var DisableClient = edge.Command[ClientRef, Client]{
	Name: "identity.client.disable", Scope: "identity:write", Class: edge.Admin, Summary: "Refuse all keys of a client",
	Record: func(in ClientRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in ClientRef) (Client, error) {
		c, err := clients.Get(tx, in.ID)
		if err != nil || c.Status == Disabled {
			return c, err
		}
		if tx.Actor().Subject == string(c.ID) {
			return Client{}, ErrClientSelf.Error(edge.Conflict)
		}
		c.Status = Disabled
		if err := clients.Put(tx, &c); err != nil {
			return Client{}, err
		}
		tx.Emit(ClientDisabled{c.ID})
		return c, nil
	},
}

// EnableClient accepts the keys of a client again, if the actor holds all that they grant.
var EnableClient = edge.Command[ClientRef, Client]{
	Name: "identity.client.enable", Scope: "identity:write", Class: edge.Admin, Summary: "Accept the keys of a client again",
	Record: func(in ClientRef) edge.ID { return in.ID },
	Handle: func(tx edge.Tx, in ClientRef) (Client, error) {
		c, err := clients.Get(tx, in.ID)
		if err != nil || c.Status == Enabled {
			return c, err
		}
		if err := mayGrant(tx.Actor(), c.Scopes, c.Sites); err != nil {
			return Client{}, err
		}
		c.Status = Enabled
		if err := clients.Put(tx, &c); err != nil {
			return Client{}, err
		}
		tx.Emit(ClientEnabled{c.ID})
		return c, nil
	},
}

// GetClient shows a client.
var GetClient = edge.Query[ClientRef, Client]{
	Name: "identity.client.get", Scope: "identity:read", Class: edge.Read, Summary: "Show a client",
	Shows:  clients,
	Record: func(in ClientRef) edge.ID { return in.ID },
	Handle: func(v edge.View, in ClientRef) (Client, error) { return clients.Get(v, in.ID) },
}

// ClientList says which clients to list.
type ClientList struct {
	edge.ListInput
	Status ClientStatus `json:"status,omitempty" doc:"Only those in this state." example:"active"`
	Kind   ClientKind   `json:"kind,omitempty" doc:"Only those of this kind." example:"partner"`
}

// ListClients lists the tenant's clients.
var ListClients = edge.Query[ClientList, edge.Page[Client]]{
	Name: "identity.client.list", Scope: "identity:read", Class: edge.Read, Summary: "List the clients",
	Handle: func(v edge.View, in ClientList) (edge.Page[Client], error) {
		f := edge.Filter[Client]{Also: []string{string(in.Status), string(in.Kind)}}
		switch {
		case in.Status != "":
			f.Index, f.Key = "status", string(in.Status)
		case in.Kind != "":
			f.Index, f.Key = "kind", string(in.Kind)
		}
		f.Keep = func(c *Client) bool { return in.Kind == "" || c.Kind == in.Kind }
		return clients.Select(v, f, in.ListInput)
	},
}
