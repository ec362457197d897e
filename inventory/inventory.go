// Package inventory is the OSS side: what stands where. It owns sites and whether the cluster hears of them; sectors, links, devices, stock and addresses join them here.
//
// Invariants: a site's code is unique per tenant whatever its case, also after it was archived, because papers and events refer to
// it for ever. Events: inventory.site.created, updated, archived; inventory.site_contact.lost, restored.
package inventory

import "wispgate/edge"

// Module is everything inventory offers.
func Module() edge.Module {
	return edge.Module{
		Name:    "inventory",
		Summary: "Towers and other places, and the equipment that stands there.",
		Tables:  []edge.AnyTable{sites, siteContacts},
		Ops: []*edge.Op{
			CreateSite.Op(), UpdateSite.Op(), ArchiveSite.Op(), GetSite.Op(), GetSiteByCode.Op(), ListSites.Op(),
			NoteContact.Op(), GetSiteContact.Op(), ListSiteContacts.Op(),
		},
		Routes: []edge.Route{
			{Method: "POST", Path: "/api/v1/inventory/sites", Op: CreateSite.Op(), Created: true},
			{Method: "GET", Path: "/api/v1/inventory/sites", Op: ListSites.Op()},
			{Method: "GET", Path: "/api/v1/inventory/sites/{id}", Op: GetSite.Op()},
			{Method: "GET", Path: "/api/v1/inventory/sites/by-code/{code}", Op: GetSiteByCode.Op()},
			{Method: "PATCH", Path: "/api/v1/inventory/sites/{id}", Op: UpdateSite.Op()},
			{Method: "POST", Path: "/api/v1/inventory/sites/{id}:archive", Op: ArchiveSite.Op()},
			{Method: "GET", Path: "/api/v1/inventory/sites/{id}/contact", Op: GetSiteContact.Op()},
			{Method: "GET", Path: "/api/v1/inventory/site-contacts", Op: ListSiteContacts.Op()},
		},
		Events:  []edge.Event{SiteCreated{}, SiteUpdated{}, SiteArchived{}, SiteContactLost{}, SiteContactRestored{}},
		Reasons: []edge.Reason{ErrSiteInvalid, ErrSiteArchived, ErrContactCluster},
	}
}
