package identity

import (
	"time"

	"wispgate/edge"
)

// ErrAnonymous answers who shows no credential.
var ErrAnonymous = edge.Reason{Code: "anonymous", Says: "The request shows no credential, so nobody asks", Fix: "Send an API key as Authorization: Bearer …"}

// Who is how the node sees who asks.
type Who struct {
	Tenant    string     `json:"tenant" doc:"The tenant the credential belongs to." example:"acme"`
	Subject   string     `json:"subject" doc:"The client behind the credential." example:"cli_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"`
	Key       string     `json:"key,omitempty" doc:"The credential that was shown."`
	Scopes    []string   `json:"scopes" doc:"What it may do."`
	Sites     []string   `json:"sites,omitempty" doc:"Sites at whose nodes it is valid; empty: all."`
	Client    *Client    `json:"client,omitempty" doc:"The client's record."`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When the key ends."`
	Version   uint64     `json:"version_read" doc:"The state it was read from."`
}

// WhoAmI tells a caller who it is. Every credential may ask, whatever its scopes.
var WhoAmI = edge.Query[edge.None, Who]{
	Name: "identity.whoami", Scope: edge.Public, Class: edge.Read, Summary: "Show who asks",
	Handle: func(v edge.View, _ edge.None) (Who, error) {
		a := v.Actor()
		if len(a.Scopes) == 0 && a.Key == "" {
			return Who{}, ErrAnonymous.Error(edge.Unauthenticated)
		}
		w := Who{Tenant: a.Tenant, Subject: a.Subject, Key: a.Key, Scopes: a.Scopes, Sites: a.Sites, Version: v.Version()}
		if c, ok, err := clients.Find(v, edge.ID(a.Subject)); err != nil {
			return Who{}, err
		} else if ok {
			w.Client = &c
		}
		if k, ok, err := keys.Find(v, edge.ID(a.Key)); err != nil {
			return Who{}, err
		} else if ok {
			w.ExpiresAt = &k.ExpiresAt
		}
		return w, nil
	},
}
