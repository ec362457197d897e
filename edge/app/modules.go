package app

import (
	"log/slog"
	"time"

	"wispgate/aaa"
	"wispgate/billing"
	"wispgate/crm"
	"wispgate/edge"
	"wispgate/gateway/identity"
	"wispgate/inventory"
	"wispgate/sync/relay"
)

// Declarations are the modules of node and relay as declarations only: what the CLI makes its verbs of, and the tests check. Nothing
// behind them runs.
func Declarations() []edge.Module {
	log := slog.New(slog.DiscardHandler)
	empty := &core{now: time.Now}
	return []edge.Module{
		identity.Module(identity.Ports{Index: identity.NewIndex(log, nil), Logger: log}),
		inventory.Module(),
		crm.Module(),
		billing.Module(),
		aaa.Module(aaa.Deps{}),
		empty.syncModule("node", nil),
		relay.Module(nil),
	}
}
