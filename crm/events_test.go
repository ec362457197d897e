package crm_test

import (
	"testing"

	"wispgate/crm"
	"wispgate/edge/edgetest"
)

func TestEventsKeepTheirShape(t *testing.T) {
	t.Parallel()
	const id = "cus_0199f1c2-7d0a-7c3e-9a51-0b6f6f1d2c33"
	edgetest.GoldenEvents(t, crm.Module(),
		crm.CustomerCreated{Customer: id, Number: "7QK2-9MXD", Status: crm.Lead},
		crm.CustomerUpdated{Customer: id, Fields: []string{"name"}},
		crm.CustomerStatusChanged{Customer: id, From: crm.Active, To: crm.Blocked, Reason: "fraud"},
		crm.CustomerArchived{Customer: id, From: crm.Churned},
		crm.CustomerConsentChanged{Customer: id, Purpose: "sms_marketing", Granted: true},
		crm.CustomerVerified{Customer: id, Document: "national id"},
	)
}
