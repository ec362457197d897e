package inventory

import (
	"strings"
	"time"

	"wispgate/edge"
)

// ContactStatus says whether a site's nodes are in touch with the cluster.
type ContactStatus string

// The states of contact.
const (
	InContact   ContactStatus = "connected"
	ContactLost ContactStatus = "lost"
)

// Values lists the states, for the schema.
func (ContactStatus) Values() []string { return []string{string(InContact), string(ContactLost)} }

// SiteContact is whether the cluster hears of a site. While it does not, payments may be taken there that nobody else sees: what would hurt
// someone who has paid stands still. It counts as heard again when the nodes there have handed over what they took meanwhile.
type SiteContact struct {
	edge.Meta
	Site        edge.ID       `json:"site_id" check:"prefix=sit" doc:"The site."`
	Status      ContactStatus `json:"status" doc:"Whether its nodes are in touch with the cluster." example:"connected"`
	Since       time.Time     `json:"since" doc:"Since when it is so."`
	LastContact time.Time     `json:"last_contact" doc:"When it was last heard of, as far as the cluster has written down."`
	Nodes       []string      `json:"nodes" check:"max=32" doc:"Nodes that stand there." example:"[\"tower7-a\"]"`
}

var siteContacts = &edge.Table[SiteContact]{
	Name: "inventory.site_contact", Prefix: "sco", Meta: func(c *SiteContact) *edge.Meta { return &c.Meta },
	Indexes: []edge.Index[SiteContact]{
		{Name: "status", Keys: func(c *SiteContact) []string { return []string{string(c.Status)} }},
	},
}

// SiteContactLost says that the cluster does not hear of a site any more.
type SiteContactLost struct {
	Contact     edge.ID   `json:"contact"`
	Site        edge.ID   `json:"site"`
	LastContact time.Time `json:"last_contact"`
}

// SiteContactRestored says that the cluster hears of a site again and has taken over what was done there.
type SiteContactRestored struct {
	Contact edge.ID   `json:"contact"`
	Site    edge.ID   `json:"site"`
	Lost    time.Time `json:"lost"` // since when it had been
}

// EventName implements edge.Event.
func (SiteContactLost) EventName() string { return "inventory.site_contact.lost" }

// Subject implements edge.Event.
func (e SiteContactLost) Subject() edge.ID { return e.Contact }

// EventName implements edge.Event.
func (SiteContactRestored) EventName() string { return "inventory.site_contact.restored" }

// Subject implements edge.Event.
func (e SiteContactRestored) Subject() edge.ID { return e.Contact }

// ErrContactCluster is the reason for a report of contact by anybody but the cluster.
var ErrContactCluster = edge.Reason{Code: "contact_cluster_only", Says: "Only the cluster itself says whether a site is in contact", Fix: "Read it; it is written by the leader"}

// Contact is what the cluster says of a site.
type Contact struct {
	Code        string    `json:"code" check:"min=1 max=64" doc:"The site's code: what its nodes have as node.site."`
	Lost        bool      `json:"lost,omitempty" doc:"Whether none of its nodes is heard of."`
	LastContact time.Time `json:"last_contact" doc:"When one of them last was."`
	Nodes       []string  `json:"nodes" check:"max=32 item.max=64" doc:"Nodes that stand there."`
}

// NoteContact writes down whether the cluster hears of a site. A code that no site of the tenant has is no concern of this tenant's.
var NoteContact = edge.Command[Contact, edge.None]{
	Name: "inventory.site_contact.note", Scope: "inventory:write", Class: edge.Write, Summary: "Note whether a site is in contact (the cluster's)",
	Handle: func(tx edge.Tx, in Contact) (edge.None, error) {
		if !strings.HasPrefix(tx.Actor().Subject, "system:") {
			return edge.None{}, ErrContactCluster.Error(edge.Denied)
		}
		site, err := sites.By(tx, "code", codeKey(in.Code))
		if e, ok := edge.AsError(err); err != nil {
			if ok && e.Kind == edge.NotFound {
				err = nil
			}
			return edge.None{}, err
		}
		return edge.None{}, note(tx, site.ID, in)
	},
}

func note(tx edge.Tx, site edge.ID, in Contact) error {
	c, found, err := siteContacts.Find(tx, site.With("sco"))
	if err != nil {
		return err
	}
	was := c
	c.ID, c.Site, c.Nodes = site.With("sco"), site, in.Nodes
	if in.LastContact.After(c.LastContact) {
		c.LastContact = in.LastContact.UTC()
	}
	c.Status = InContact
	if in.Lost {
		c.Status = ContactLost
	}
	if c.Status != was.Status {
		c.Since = tx.Now().UTC()
	}
	if diff, err := edge.Changed(&was, &c); err != nil || found && len(diff) == 0 {
		return err
	}
	if err := siteContacts.Put(tx, &c); err != nil {
		return err
	}
	switch {
	case c.Status == was.Status:
	case in.Lost:
		tx.Emit(SiteContactLost{c.ID, site, c.LastContact})
	case found:
		tx.Emit(SiteContactRestored{c.ID, site, was.Since})
	}
	return nil
}

// GetSiteContact answers whether the cluster hears of a site. A site at which no node stands has no contact to lose: not_found.
var GetSiteContact = edge.Query[SiteRef, SiteContact]{
	Name: "inventory.site_contact.get", Scope: "inventory:read", Class: edge.Read, Summary: "Show whether the cluster hears of a site",
	Handle: func(v edge.View, in SiteRef) (SiteContact, error) { return siteContacts.Get(v, in.ID.With("sco")) },
}

// SiteContactList filters a list of contacts.
type SiteContactList struct {
	edge.ListInput
	Status ContactStatus `json:"status,omitempty" doc:"Only those in this state." example:"lost"`
}

// ListSiteContacts lists the sites at which nodes stand and whether the cluster hears of them.
var ListSiteContacts = edge.Query[SiteContactList, edge.Page[SiteContact]]{
	Name: "inventory.site_contact.list", Scope: "inventory:read", Class: edge.Read, Summary: "List which sites the cluster hears of",
	Handle: func(v edge.View, in SiteContactList) (edge.Page[SiteContact], error) {
		if in.Status != "" {
			return siteContacts.List(v, "status", string(in.Status), in.ListInput)
		}
		return siteContacts.List(v, "", "", in.ListInput)
	},
}
