package inventory_test

import (
	"testing"

	"wispgate/edge/edgetest"
	"wispgate/inventory"
)

func TestEventsKeepTheirShape(t *testing.T) {
	t.Parallel()
	const id = "sit_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
	edgetest.GoldenEvents(t, inventory.Module(),
		inventory.SiteCreated{Site: id, Code: "TWR7"},
		inventory.SiteUpdated{Site: id, Fields: []string{"height_m"}},
		inventory.SiteArchived{Site: id},
	)
}
