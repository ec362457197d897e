package cluster

import "wispgate/edge"

// Module is what the cluster declares: edge/app adds the node's own status to it.
func Module(p Ports) edge.Module {
	ops := []*edge.Op{
		foundNode.Op(), announceNode.Op(), settle.Op(), recovered.Op(), meetHistory.Op(), admit.Op(), finishCheck.Op(), expire.Op(),
	}
	create, invs := invite(p).Op(), listInvitations.Op()
	list, get, update := listPeers.Op(), getPeer.Op(), updatePeer.Op()
	up, down, out, first, mend := promote.Op(), demote(p).Op(), remove(p).Op(), lead(p).Op(), repair(p).Op()
	start, check, all := startCheck.Op(), getCheck.Op(), listChecks.Op()
	m := edge.Module{
		Name: "sync", Summary: "How the node is: replication, streams, disk and clock.",
		Tables: []edge.AnyTable{peerTable, invitations, checks},
		Ops:    append(ops, create, invs, list, get, update, up, down, out, first, mend, start, check, all),
		Routes: []edge.Route{
			{Method: "POST", Path: "/api/v1/sync/invitations", Op: create, Created: true},
			{Method: "GET", Path: "/api/v1/sync/invitations", Op: invs},
			{Method: "GET", Path: "/api/v1/sync/nodes", Op: list},
			{Method: "GET", Path: "/api/v1/sync/nodes/{node}", Op: get},
			{Method: "PATCH", Path: "/api/v1/sync/nodes/{node}", Op: update},
			{Method: "POST", Path: "/api/v1/sync/nodes/{node}:promote", Op: up},
			{Method: "POST", Path: "/api/v1/sync/nodes/{node}:demote", Op: down},
			{Method: "POST", Path: "/api/v1/sync/nodes/{node}:remove", Op: out},
			{Method: "POST", Path: "/api/v1/sync/nodes/{node}:lead", Op: first},
			{Method: "POST", Path: "/api/v1/sync/nodes/{node}:repair", Op: mend},
			{Method: "POST", Path: "/api/v1/sync/checks", Op: start, Created: true},
			{Method: "GET", Path: "/api/v1/sync/checks", Op: all},
			{Method: "GET", Path: "/api/v1/sync/checks/{id}", Op: check},
		},
		Events: []edge.Event{
			NodeInvited{}, NodeJoined{}, NodePromoted{}, NodeDemoted{}, NodeRemoved{}, NodeUpdated{}, NodeLost{}, NodeFound{}, HistoryMet{}, ChecksumMismatch{},
		},
		Reasons: append([]edge.Reason{
			ErrOperator, ErrPeerUnknown, ErrPeerExists, ErrPeerRemoved, ErrPeerGone, ErrQuorumRisk, ErrLastVoter, ErrNotVoter, ErrSilent, ErrRepairLast, ErrFounded,
			ErrPeerOld, ErrTokenWrong, ErrTokenExpired, ErrTokenUsed, ErrNoPort,
		}, carryReasons()...),
	}
	if p.Directory != nil {
		m.Watches = []edge.Watch{p.Directory.watch(), watchChecks(p)}
	}
	return m
}
