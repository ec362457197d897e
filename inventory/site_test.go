package inventory_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/inventory"
)

var ann = edgetest.Actor("acme")

type site = inventory.Site

func tower(code string) inventory.NewSite {
	return inventory.NewSite{Code: code, Name: "Hill Farm tower", Kind: inventory.Tower, Timezone: "Africa/Harare"}
}

func TestASiteIsCreatedReadChangedAndArchived(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, inventory.Module())
	in := tower(" twr7 ")
	in.Coords = &inventory.Coords{LatMicrodeg: -17829200, LonMicrodeg: 31052200}
	in.Backhaul = []inventory.Backhaul{{Kind: "microwave", CapacityKbps: 300000}}
	in.ExternalID = "uisp-41"
	made := edgetest.Do[site](t, n, ann, "inventory.site.create", in)
	if made.Code != "TWR7" || made.Version != 1 || made.TenantID != "acme" || *made.Coords != *in.Coords {
		t.Fatalf("got %+v, want the normalised code, version 1 and the coordinates", made)
	}
	if got := edgetest.Ask[site](t, n, ann, "inventory.site.get_by_code", inventory.SiteCode{Code: "Twr7"}); !cmp.Equal(got, made) {
		t.Errorf("by code: %s", cmp.Diff(made, got))
	}
	changed := edgetest.Do[site](t, n, ann, "inventory.site.update", inventory.SiteChange{ID: made.ID, HeightM: new(int64(36))})
	if changed.HeightM != 36 || changed.Version != 2 || changed.Name != made.Name {
		t.Errorf("got %+v, want the height changed and nothing else", changed)
	}
	again := edgetest.Do[site](t, n, ann, "inventory.site.update", inventory.SiteChange{ID: made.ID, HeightM: new(int64(36))})
	if again.Version != 2 {
		t.Errorf("a change that changes nothing made version %d, want 2", again.Version)
	}
	cleared := edgetest.Do[site](t, n, ann, "inventory.site.update", inventory.SiteChange{ID: made.ID, Clear: []string{"coords"}})
	if cleared.Coords != nil || cleared.HeightM != 36 {
		t.Errorf("got %+v, want the coordinates removed and nothing else", cleared)
	}
	gone := edgetest.Do[site](t, n, ann, "inventory.site.archive", inventory.SiteRef{ID: made.ID})
	twice := edgetest.Do[site](t, n, ann, "inventory.site.archive", inventory.SiteRef{ID: made.ID})
	if gone.ArchivedAt == nil || twice.Version != gone.Version {
		t.Errorf("archived twice: got versions %d and %d, want the second without effect", gone.Version, twice.Version)
	}
	want := []string{"inventory.site.created", "inventory.site.updated", "inventory.site.updated", "inventory.site.archived"}
	if got := edgetest.EventTypes(t, n, "acme", 0); !cmp.Equal(got, want) {
		t.Errorf("events: %s", cmp.Diff(want, got))
	}
	edgetest.NoDrift(t, n)
}

func TestSitesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, inventory.Module())
	edgetest.Do[site](t, n, ann, "inventory.site.create", tower("TWR7"))
	gone := edgetest.Do[site](t, n, ann, "inventory.site.create", tower("OLD"))
	edgetest.Do[site](t, n, ann, "inventory.site.archive", inventory.SiteRef{ID: gone.ID})
	with := func(change func(*inventory.NewSite)) inventory.NewSite {
		s := tower("NEW")
		change(&s)
		return s
	}
	for _, c := range []struct {
		name, op string
		in       any
		code, at string
	}{
		{"a code that is held in another case", "create", tower("twr7"), "already_exists", "/code"},
		{"a code of an archived site", "create", tower("old"), "already_exists", "/code"},
		{"a code with a space inside", "create", tower("TWR 7"), "site_invalid", "/code"},
		{"a code in other letters", "create", tower("ТWR7"), "site_invalid", "/code"},
		{"an unknown zone", "create", with(func(s *inventory.NewSite) { s.Timezone = "Mars/Base" }), "site_invalid", "/timezone"},
		{"the zone of the machine", "create", with(func(s *inventory.NewSite) { s.Timezone = "Local" }), "site_invalid", "/timezone"},
		{"an unknown kind", "create", with(func(s *inventory.NewSite) { s.Kind = "boat" }), "site_invalid", "/kind"},
		{"a place not on Earth", "create", with(func(s *inventory.NewSite) { s.Coords = &inventory.Coords{LatMicrodeg: 90_000_001} }), "site_invalid", "/coords"},
		{"a lease that ends before it begins", "create", with(func(s *inventory.NewSite) {
			s.Lease = &inventory.Lease{Start: "2026-02-01", End: "2026-01-31"}
		}), "site_invalid", "/lease"},
		{"a change of an archived site", "update", inventory.SiteChange{ID: gone.ID, Name: new("x")}, "site_archived", ""},
		{"a change of a site that is not", "update", inventory.SiteChange{ID: "sit_00000000-0000-7000-8000-000000000000"}, "not_found", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := edgetest.Try[site](n, ann, edge.Request{}, "inventory.site."+c.op, c.in)
			e, _ := edge.AsError(err)
			if err == nil || e.Code != c.code {
				t.Fatalf("got %v, want code %s", err, c.code)
			}
			if c.at != "" && (len(e.Fields) == 0 || e.Fields[0].Pointer != c.at) {
				t.Errorf("got fields %+v, want %s named", e.Fields, c.at)
			}
			if strings.Contains(e.Error(), "Mars") {
				t.Error("the refusal echoes the input")
			}
		})
	}
}

func TestSitesAreListedByKindAndNeverAcrossTenants(t *testing.T) {
	t.Parallel()
	n := edgetest.Node(t, inventory.Module())
	bob := edgetest.Actor("bobnet")
	mine := edgetest.Do[site](t, n, ann, "inventory.site.create", tower("A1"))
	edgetest.Do[site](t, n, bob, "inventory.site.create", tower("A1"))
	office := tower("HQ")
	office.Kind = inventory.Office
	edgetest.Do[site](t, n, ann, "inventory.site.create", office)
	list := func(in inventory.SiteList) (codes []string) {
		for _, s := range edgetest.Ask[edge.Page[site]](t, n, ann, "inventory.site.list", in).Data {
			codes = append(codes, s.Code)
		}
		return codes
	}
	if got := list(inventory.SiteList{Kind: inventory.Tower}); !cmp.Equal(got, []string{"A1"}) {
		t.Errorf("towers: got %v, want A1", got)
	}
	if got := edgetest.Code(t, n, bob, "inventory.site.archive", inventory.SiteRef{ID: mine.ID}); got != "not_found" {
		t.Errorf("another tenant's site: got %s, want not_found", got)
	}
	edgetest.Do[site](t, n, ann, "inventory.site.archive", inventory.SiteRef{ID: mine.ID})
	if got := list(inventory.SiteList{}); !cmp.Equal(got, []string{"HQ"}) {
		t.Errorf("in use: got %v, want HQ", got)
	}
	if got := list(inventory.SiteList{Archived: true}); len(got) != 2 {
		t.Errorf("with archived ones: got %v, want both", got)
	}
	edgetest.NoDrift(t, n)
}
