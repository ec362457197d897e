package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/gateway/identity"
	"wispgate/inventory"
	"wispgate/sync/cluster"
)

// contactEvery is how often the leader looks at its members' contact when nothing else makes it look.
const contactEvery = 30 * time.Second

// contactLoop keeps each site's contact with the cluster as a record of every tenant that has the site. It compares what is with what is
// written, so that a change of leader, of members or of sites needs no notice of its own.
func (c *core) contactLoop(ctx context.Context) error {
	return c.cluster.Leading(ctx, func(ctx context.Context) error {
		tick := time.NewTicker(contactEvery)
		defer tick.Stop()
		for {
			changed := c.members.Changed()
			if err := c.noteContacts(ctx); err != nil && ctx.Err() == nil {
				c.log.Info("contact of sites not written down yet", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-tick.C:
			}
		}
	})
}

func (c *core) noteContacts(ctx context.Context) error {
	contacts := siteContacts(c.members.Peers(), c.now())
	if len(contacts) == 0 {
		return nil
	}
	tenants, err := c.tenants(ctx)
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		actor := edge.SystemActor(tenant, "contact")
		written, err := c.writtenContacts(ctx, actor)
		if err != nil {
			return err
		}
		for _, now := range contacts {
			if was, ok := written[now.Code]; !ok || !moved(was, now) {
				continue
			}
			if _, err := edge.Do(ctx, c.exec, actor, "", inventory.NoteContact.Name, now); err != nil {
				return fmt.Errorf("note contact of %s: %w", now.Code, err)
			}
		}
	}
	return nil
}

// moved reports whether a contact is worth an entry: its state or its nodes changed.
func moved(was inventory.SiteContact, now inventory.Contact) bool {
	return (was.Status == inventory.ContactLost) != now.Lost || !slices.Equal(was.Nodes, now.Nodes)
}

// siteContacts is what the cluster knows of its sites: one is lost when none of its nodes is heard of.
func siteContacts(peers []cluster.Peer, now time.Time) (list []inventory.Contact) {
	for _, p := range peers {
		code := strings.ToUpper(p.Site)
		i := slices.IndexFunc(list, func(c inventory.Contact) bool { return c.Code == code })
		if i < 0 {
			i = len(list)
			list = append(list, inventory.Contact{Code: code, Lost: true})
		}
		c := &list[i]
		heard := now
		if p.LostAt != nil {
			heard = *p.LostAt
		}
		c.Lost = c.Lost && p.LostAt != nil
		c.Nodes = append(c.Nodes, p.Node)
		if heard.After(c.LastContact) {
			c.LastContact = heard
		}
	}
	return list
}

// writtenContacts are the tenant's sites by code, with what is written of their contact; nothing yet is a record without a status.
func (c *core) writtenContacts(ctx context.Context, actor edge.Actor) (map[string]inventory.SiteContact, error) {
	byID, err := everyPage[inventory.SiteContact](ctx, c, actor, inventory.ListSiteContacts.Name)
	if err != nil {
		return nil, err
	}
	all, err := everyPage[inventory.Site](ctx, c, actor, inventory.ListSites.Name)
	if err != nil {
		return nil, err
	}
	written := map[string]inventory.SiteContact{}
	for _, s := range all {
		i := slices.IndexFunc(byID, func(k inventory.SiteContact) bool { return k.Site == s.ID })
		if i < 0 {
			written[s.Code] = inventory.SiteContact{}
			continue
		}
		written[s.Code] = byID[i]
	}
	return written, nil
}

// everyPage reads a whole list. It is for lists of tens or hundreds: tenants and sites.
func everyPage[T any](ctx context.Context, c *core, actor edge.Actor, op string) (all []T, err error) {
	in := edge.ListInput{Limit: edge.MaxLimit}
	for {
		out, _, err := c.exec.Ask(ctx, actor, op, fmt.Appendf(nil, `{"limit":%d,"cursor":%q}`, in.Limit, in.Cursor), 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		page, ok := out.(edge.Page[T])
		if !ok {
			return nil, fmt.Errorf("%s answers %T", op, out)
		}
		all = append(all, page.Data...)
		if !page.HasMore {
			return all, nil
		}
		in.Cursor = page.NextCursor
	}
}

// tenants lists the words of all tenants.
func (c *core) tenants(ctx context.Context) (slugs []string, err error) {
	list, err := everyPage[identity.Tenant](ctx, c, edge.SystemActor(edge.System, "contact"), identity.ListTenants.Name)
	for _, t := range list {
		slugs = append(slugs, t.Slug)
	}
	return slugs, err
}
