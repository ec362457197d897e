package inventory_test

import (
	"testing"
	"time"

	"wispgate/edge/edgetest"
	"wispgate/inventory"
)

func TestEventsKeepTheirShape(t *testing.T) {
	t.Parallel()
	const id = "sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
	const contact = "sco_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
	at := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	edgetest.GoldenEvents(t, inventory.Module(),
		inventory.SiteCreated{Site: id, Code: "TWR7"},
		inventory.SiteUpdated{Site: id, Fields: []string{"height_m"}},
		inventory.SiteArchived{Site: id},
		inventory.SiteContactLost{Contact: contact, Site: id, LastContact: at},
		inventory.SiteContactRestored{Contact: contact, Site: id, Lost: at},
	)
}
