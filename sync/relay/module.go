package relay

import (
	"wispgate/edge"
	"wispgate/sync/wire"
)

// Module is everything the relay offers to people: endpoints, deliveries, replays, stored events and streams. With a nil relay it only
// declares, for docs and clients; what needs the relay's store then answers that it is starting.
func Module(r *Relay) edge.Module {
	create, update, replay := r.createEndpoint().Op(), r.updateEndpoint().Op(), r.replay().Op()
	health, streams := r.endpointHealth().Op(), r.listStreams().Op()
	event, eventList := r.getEvent().Op(), r.listEvents().Op()
	delivery, deliveryList := r.getDelivery().Op(), r.listDeliveries().Op()
	get, list, remove, rotate := getEndpoint.Op(), listEndpoints.Op(), deleteEndpoint.Op(), rotateSecret.Op()
	enable, disable, test := enableEndpoint.Op(), disableEndpoint.Op(), testEndpoint.Op()
	job, jobList := getJob.Op(), listJobs.Op()
	const base = "/api/v1/relay"
	m := edge.Module{
		Name:    "relay",
		Summary: "Webhook endpoints, deliveries and the streams they are fed from.",
		Tables:  []edge.AnyTable{endpoints, secrets, jobs},
		Ops: []*edge.Op{
			create, update, remove, rotate, enable, disable, test, get, list, health, delivery, deliveryList, replay, event, eventList,
			streams, job, jobList, reportJob.Op(), noticeFailing.Op(),
		},
		Routes: []edge.Route{
			{Method: "POST", Path: base + "/endpoints", Op: create, Created: true},
			{Method: "GET", Path: base + "/endpoints", Op: list},
			{Method: "GET", Path: base + "/endpoints/{id}", Op: get},
			{Method: "PATCH", Path: base + "/endpoints/{id}", Op: update},
			{Method: "DELETE", Path: base + "/endpoints/{id}", Op: remove},
			{Method: "POST", Path: base + "/endpoints/{id}:rotate-secret", Op: rotate},
			{Method: "POST", Path: base + "/endpoints/{id}:enable", Op: enable},
			{Method: "POST", Path: base + "/endpoints/{id}:disable", Op: disable},
			{Method: "POST", Path: base + "/endpoints/{id}:test", Op: test},
			{Method: "GET", Path: base + "/endpoints/{id}/health", Op: health},
			{Method: "GET", Path: base + "/deliveries", Op: deliveryList},
			{Method: "GET", Path: base + "/deliveries/{id}", Op: delivery},
			{Method: "POST", Path: base + "/deliveries:replay", Op: replay},
			{Method: "GET", Path: base + "/events", Op: eventList},
			{Method: "GET", Path: base + "/events/{id}", Op: event},
			{Method: "GET", Path: base + "/streams", Op: streams},
			{Method: "GET", Path: base + "/jobs", Op: jobList},
			{Method: "GET", Path: base + "/jobs/{id}", Op: job},
		},
		Events: []edge.Event{
			EndpointCreated{}, EndpointUpdated{}, EndpointDeleted{}, EndpointSecretRotated{}, EndpointDisabled{}, EndpointEnabled{},
			EndpointFailing{}, JobRequested{}, JobFinished{},
		},
		Reasons: append([]edge.Reason{
			reasonAddress, reasonPort, reasonPlain, reasonURL, reasonEvents, reasonMany, reasonState, reasonFilter, reasonGone, reasonStore,
			wire.ErrSecret, {Code: outcomeExpired, Says: "The event is older than the relay keeps events", Fix: "Raise relay.keep_days, and enable endpoints before that"},
		}, outcomeReasons...),
	}
	if r == nil {
		return m
	}
	m.Watches = []edge.Watch{{Name: "relay", Tables: []string{endpoints.Name, secrets.Name, jobs.Name}, Apply: r.reg.apply}}
	m.Workers = []edge.Worker{
		{Name: "relay.reports", On: edge.OnLeader, Run: r.runReports},
		{Name: "relay.jobs", On: edge.OnLeader, Run: r.runJobs},
	}
	return m
}
