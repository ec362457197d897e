package app

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"wispgate/aaa"
	"wispgate/billing"
	"wispgate/crm"
	"wispgate/edge"
	"wispgate/edge/edgetest"
	"wispgate/edge/exec"
)

// Three random histories of each property are tried unless -rapid.checks says more: here each of them cuts a node off and waits until it is
// back.
var _ = flag.Set("rapid.checks", "3")

// pending lists every command that a cut-off node may accept, each with what a random call of it says. Adding one is one line; a command
// that is declared Offline and missing here fails the test.
var pending = map[string]func(*game) any{
	"aaa.access.set":                   (*game).access,
	"aaa.credential.create":            (*game).newLogin,
	"aaa.credential.lock":              func(g *game) any { return aaa.CredentialMove{ID: g.one(g.logins), Why: "lost"} },
	"aaa.credential.rebind":            func(g *game) any { return aaa.CredentialRebind{ID: g.one(g.logins), MAC: g.mac()} },
	"aaa.credential.revoke":            func(g *game) any { return aaa.CredentialMove{ID: g.one(g.logins), Why: "stolen"} },
	"aaa.credential.rotate":            func(g *game) any { return m{"id": g.one(g.logins), "password": g.word("p", 3)} },
	"aaa.nas.register":                 (*game).newNAS,
	"aaa.nas.rotate_secret":            func(g *game) any { return m{"id": g.one(g.nas), "secret": g.word("secret-", 3), "keep_old": g.coin()} },
	"billing.payment.record":           (*game).payment,
	"billing.subscription.activate":    func(g *game) any { return billing.SubscriptionRef{ID: g.one(g.subs)} },
	"billing.subscription.change_plan": func(g *game) any { return billing.ChangePlanInput{ID: g.one(g.subs), PlanID: g.one(g.plans)} },
	"billing.subscription.create":      (*game).newSubscription,
	"billing.subscription.reactivate":  func(g *game) any { return billing.ReactivateInput{ID: g.one(g.subs), Reason: g.reason()} },
	"billing.subscription.renew":       func(g *game) any { return billing.RenewInput{ID: g.one(g.subs), Periods: int64(g.n(1, 3))} },
	"billing.subscription.submit":      func(g *game) any { return billing.SubscriptionRef{ID: g.one(g.subs)} },
	"billing.subscription.suspend":     func(g *game) any { return billing.SuspendInput{ID: g.one(g.subs), Reason: g.reason()} },
	"billing.usage.record":             (*game).usage,
	"crm.customer.create":              (*game).newCustomer,
	"crm.customer.set_consent": func(g *game) any {
		return crm.ConsentInput{ID: g.one(g.customers), Purpose: "sms", Granted: g.coin(), Source: g.word("form ", 2)}
	},
	"crm.customer.update": (*game).customerChange,
}

// meanwhile are commands that need the quorum and cross the pending ones.
var meanwhile = map[string]func(*game) any{
	"aaa.credential.unlock": func(g *game) any { return aaa.CredentialRef{ID: g.one(g.logins)} },
	"aaa.nas.delete":        func(g *game) any { return aaa.NASRef{ID: g.one(g.nas)} },
	"billing.payment.allocate": func(g *game) any {
		return billing.AllocateInput{CustomerID: g.one(g.customers), SubscriptionID: g.one(g.subs)}
	},
	"billing.payment.bounce":         func(g *game) any { return billing.PaymentEnd{ID: g.one(g.payments)} },
	"billing.payment.confirm":        func(g *game) any { return billing.PaymentRef{ID: g.one(g.payments)} },
	"billing.payment.reverse":        func(g *game) any { return billing.PaymentEnd{ID: g.one(g.payments)} },
	"billing.plan.retire":            func(g *game) any { return billing.PlanRef{ID: g.one(g.plans)} },
	"billing.subscription.terminate": func(g *game) any { return billing.EndInput{ID: g.one(g.subs)} },
	"crm.customer.archive":           func(g *game) any { return crm.CustomerRef{ID: g.one(g.customers)} },
	"crm.customer.set_status":        func(g *game) any { return crm.CustomerStatusInput{ID: g.one(g.customers), Status: crm.Churned} },
}

type m = map[string]any

// TestEveryCommandThatMayWaitStandsInTheRebaseTest fails when a command is declared Offline and nothing here tries its rebase.
func TestEveryCommandThatMayWaitStandsInTheRebaseTest(t *testing.T) {
	t.Parallel()
	var offline []string
	for _, mod := range Declarations() {
		for _, op := range mod.Ops {
			if op.Offline {
				offline = append(offline, op.Name)
			}
		}
	}
	slices.Sort(offline)
	if listed := slices.Sorted(maps.Keys(pending)); !slices.Equal(listed, offline) {
		t.Errorf("tried are %v, declared are %v", listed, offline)
	}
}

// TestWhateverATowerAcceptedStandsOnceOrIsAConflict plays random calls at a cut-off tower and at the leader, for each command that may
// wait, and holds what must be true when the link is back.
func TestWhateverATowerAcceptedStandsOnceOrIsAConflict(t *testing.T) {
	if testing.Short() {
		t.Skip("cuts a node off for each of many histories; not with -short")
	}
	t.Parallel()
	r := newRegion(t)
	accepted := map[string]int{}
	round := 0
	for _, name := range slices.Sorted(maps.Keys(pending)) {
		t.Run(name, func(t *testing.T) {
			for try := 0; try == 0 || accepted[name] == 0 && try < 20; try++ { // few histories may happen to hold refused calls only
				rapid.Check(t, func(rt *rapid.T) {
					round++
					g := &game{region: r, rt: rt, name: fmt.Sprintf("g%d", round), accepted: accepted}
					g.begin()
					g.play(name)
					g.end()
				})
			}
			if accepted[name] == 0 {
				t.Errorf("no call of %s was ever accepted by the tower", name)
			}
		})
	}
	r.tower.HealAndDrain()
	edgetest.NoDrift(t, r.leader.Harness)
	for _, node := range []string{"n1", "n2"} {
		in := billing.ChainInput{Node: node}
		for {
			c := edgetest.Ask[billing.Chain](t, r.leader.Harness, isp, "billing.receipt.chain", in)
			if len(c.Findings) > 0 {
				t.Errorf("the receipts of %s: %+v", node, c.Findings)
			}
			if in.Cursor = c.NextCursor; in.Cursor == "" {
				break
			}
		}
	}
}

// call is something that was asked for and that a node said yes to.
type call struct {
	key, op, state string
	in             json.RawMessage
}

// game is one random history over records of its own.
type game struct {
	*region
	rt       *rapid.T
	name     string
	step     int
	accepted map[string]int // calls of each command that the tower accepted, over all games

	customers, subs, logins, nas, plans, payments []edge.ID

	calls    []call
	paid     map[string]int64  // money by what makes a payment the same: key, or number of the device and content
	sessions map[string]uint64 // octets of each session, the most that was reported
	moved    map[edge.ID]bool  // subscriptions whose time something else than money at the tower has moved
	revoked  map[edge.ID]bool
	making   map[edge.ID]string // the key of the call that makes a login
}

func (g *game) n(least, most int) int { return rapid.IntRange(least, most).Draw(g.rt, "n") }
func (g *game) coin() bool            { return rapid.Bool().Draw(g.rt, "coin") }

func (g *game) one(list []edge.ID) edge.ID {
	if len(list) == 0 {
		return edge.DeriveID("pay", "nothing", 0)
	}
	return list[g.n(0, len(list)-1)]
}

func (g *game) word(stem string, most int) string {
	return fmt.Sprintf("%s%s-%d-word", stem, g.name, g.n(1, most))
}

func (g *game) mac() string {
	return []string{"", "02:00:00:00:00:01", "0200.0000.0001", "02-00-00-00-00-02"}[g.n(0, 3)]
}

func (g *game) reason() billing.SuspensionReason {
	return []billing.SuspensionReason{billing.ForDunning, billing.ForAdmin}[g.n(0, 1)]
}

func (g *game) access() any {
	return aaa.AccessInput{AccessTerms: aaa.AccessTerms{
		Subscription: edge.DeriveID("sub", g.name+"access", g.n(0, 1)), Customer: g.customers[0], Status: aaa.AccessStatus([]string{"active", "suspended"}[g.n(0, 1)]),
		Policy: g.policy, OnExpiry: "reject", Revision: uint64(g.n(1, 4)),
	}}
}

func (g *game) newLogin() any {
	in := m{"subscription_id": g.one(g.subs), "username": fmt.Sprintf("%s-%d", g.name, g.n(1, 4)), "password": "correct horse"}
	if g.coin() {
		in["external_id"] = g.word("login ", 2)
	}
	return in
}

func (g *game) newNAS() any {
	k := g.n(1, 4)
	return m{"identifier": fmt.Sprintf("%s-%d", g.name, g.n(1, 4)), "addresses": []string{g.address(k)}, "secret": "shared secret"}
}

// address is one of a few of this game.
func (g *game) address(k int) string {
	var round int
	_, _ = fmt.Sscanf(g.name, "g%d", &round)
	return fmt.Sprintf("10.%d.%d.%d", round>>8&255, round&255, k)
}

func (g *game) newCustomer() any {
	in := crm.NewCustomer{Kind: crm.Person, Name: g.word("Tendai ", 2), Status: crm.Active}
	if g.coin() {
		in.ID = edge.DeriveID("cus", g.name+"minted", g.n(0, 1))
	}
	if g.coin() {
		in.ExternalID = g.word("ext ", 2)
	}
	if g.coin() {
		in.Number = g.word("no ", 2)
	}
	return in
}

func (g *game) customerChange() any {
	in := m{"id": g.one(g.customers)}
	for field, values := range map[string][]any{
		"name": {"Rudo  Moyo", "Rudo Moyo", "R. Moyo"}, "language": {"en", "sn"}, "tags": {[]string{"vip"}, []string{}},
		"phones": {[]m{{"number": "+263 77 123 4567"}}, []m{{"number": "+263771234567"}}, []m{}},
	} {
		if g.coin() {
			in[field] = values[g.n(0, len(values)-1)]
		}
	}
	switch g.n(0, 3) {
	case 0:
		in["parent_id"] = g.one(g.customers)
	case 1:
		in["clear"] = []string{"parent_id"}
	}
	return in
}

func (g *game) newSubscription() any {
	in := billing.NewSubscription{CustomerID: g.one(g.customers), Timezone: "Africa/Harare", Items: []billing.NewItem{{PlanID: g.one(g.plans)}}}
	if g.coin() {
		in.ID = edge.DeriveID("sub", g.name+"minted", g.n(0, 1))
	}
	return in
}

func (g *game) payment() any {
	in := billing.PaymentInput{
		CustomerID: g.one(g.customers), SubscriptionID: g.one(g.subs), Method: billing.Cash, Collector: fmt.Sprintf("%s-%d", g.name, g.n(1, 2)),
		Amount: billing.Money{AmountMinor: []int64{1, 900, 2500, 6000}[g.n(0, 3)], Currency: []billing.Currency{"USD", "USD", "USD", "ZAR"}[g.n(0, 3)]},
	}
	if g.coin() {
		in.Method, in.Reference = billing.MobileMoney, g.word("ref", 3)
	}
	if g.coin() {
		in.Device, in.DeviceSeq = g.name, uint64(g.n(1, 3))
	}
	if g.n(0, 5) == 0 {
		in.SubscriptionID = ""
	}
	if g.n(0, 5) == 0 {
		in.CustomerID = edge.DeriveID("cus", g.name+"nobody", 0)
	}
	return in
}

func (g *game) usage() any {
	return billing.UsageReport{
		Session: edge.DeriveID("ses", g.name, g.n(0, 2)), Subscription: g.subs[0], Start: edgetest.Start, At: g.leader.Clock.Now().Add(time.Duration(g.n(0, 50)) * time.Hour),
		Counters: billing.Counters{InOctets: uint64(g.n(0, 9)) << 32, Seconds: 1},
	}
}

// begin makes the game's records on the leader and cuts the tower off.
func (g *game) begin() {
	g.paid, g.sessions, g.moved, g.revoked = map[string]int64{}, map[string]uint64{}, map[edge.ID]bool{}, map[edge.ID]bool{}
	g.making = map[edge.ID]string{}
	g.tower.HealAndDrain()
	for i, kind := range []billing.PlanKind{billing.Prepaid, billing.Recurring, billing.Prepaid} {
		g.plans = append(g.plans, g.sell(fmt.Sprintf("%s-%d", g.name, i), kind))
	}
	for i := range 2 {
		g.customers = append(g.customers, g.made("crm.customer.create", crm.NewCustomer{Kind: crm.Person, Name: "Rudo Moyo", Status: crm.Active, Common: edge.Common{ExternalID: fmt.Sprint(g.name, i)}}))
		g.nas = append(g.nas, g.made("aaa.nas.register", json.RawMessage(fmt.Sprintf(`{"identifier":"%s","addresses":["%s"],"secret":"shared secret"}`, fmt.Sprint(g.name, "-first-", i), g.address(100+i)))))
	}
	for i := range 3 {
		id := g.made("billing.subscription.create", billing.NewSubscription{CustomerID: g.customers[i%2], Timezone: "Africa/Harare", Items: []billing.NewItem{{PlanID: g.plans[i]}}})
		g.subs = append(g.subs, id)
		g.logins = append(g.logins, g.made("aaa.credential.create", login(id, fmt.Sprint(g.name, "-first-", i))))
		if i < 2 {
			g.made("billing.subscription.activate", billing.SubscriptionRef{ID: id})
		}
	}
	g.made("billing.subscription.suspend", billing.SuspendInput{ID: g.subs[g.n(0, 1)], Reason: billing.ForDunning})
	g.tower.CutAndNotice()
}

// play lets random calls happen at both places, about every second one at the tower being of the named command.
func (g *game) play(name string) {
	all, cross := slices.Sorted(maps.Keys(pending)), slices.Sorted(maps.Keys(meanwhile))
	for range g.n(3, 14) {
		op := name
		if g.n(0, 2) == 0 {
			op = rapid.SampledFrom(all).Draw(g.rt, "op")
		}
		switch g.n(0, 7) {
		case 0:
			g.advance(time.Duration(g.n(1, 60*24)) * time.Hour)
		case 1, 2:
			cmd := rapid.SampledFrom(cross).Draw(g.rt, "cross")
			g.ask(g.leader, cmd, meanwhile[cmd](g))
		case 3:
			g.ask(g.leader, op, pending[op](g))
		case 4:
			if len(g.calls) > 0 { // asked again, perhaps elsewhere
				c := g.calls[g.n(0, len(g.calls)-1)]
				g.send([]*edgetest.Member{g.leader, g.tower}[g.n(0, 1)], c)
			}
		default:
			g.ask(g.tower, op, pending[op](g))
		}
	}
}

func (g *game) ask(at *edgetest.Member, op string, in any) {
	g.step++
	raw, err := json.Marshal(in)
	if err != nil {
		g.rt.Fatal(err)
	}
	g.send(at, call{key: fmt.Sprintf("%s-%d", g.name, g.step), op: op, in: raw})
}

// send has a node do something. What it refuses is refused; what it says yes to is held against what comes of it.
func (g *game) send(at *edgetest.Member, c call) {
	out, reply, err := edgetest.Try[json.RawMessage](at.Harness, isp, edge.Request{Key: c.key}, c.op, c.in)
	if err != nil {
		if e, ok := edge.AsError(err); !ok || e.Kind == edge.Internal {
			g.rt.Fatalf("%s at %s: %v", c.op, at.Name, err)
		}
		return
	}
	c.state = reply.State
	if want := map[*edgetest.Member]string{g.leader: "committed", g.tower: "pending"}[at]; reply.State != want {
		g.rt.Fatalf("%s at %s is %s, want %s", c.op, at.Name, reply.State, want)
	}
	g.calls = append(g.calls, c)
	if at == g.tower {
		g.accepted[c.op]++
	}
	var meta edge.Meta
	_ = json.Unmarshal(out, &meta)
	g.note(at, c, meta.ID)
}

// note keeps what an accepted call means for the end.
func (g *game) note(at *edgetest.Member, c call, id edge.ID) {
	add := func(list *[]edge.ID) {
		if !slices.Contains(*list, id) {
			*list = append(*list, id)
		}
	}
	var in struct {
		ID             edge.ID `json:"id"`
		SubscriptionID edge.ID `json:"subscription_id"`
	}
	_ = json.Unmarshal(c.in, &in)
	switch c.op {
	case "crm.customer.create":
		add(&g.customers)
	case "billing.subscription.create":
		add(&g.subs)
	case "aaa.credential.create":
		add(&g.logins)
		g.making[id] = c.key
	case "aaa.nas.register":
		add(&g.nas)
	case "aaa.credential.revoke":
		g.revoked[in.ID] = true
	case "billing.payment.record":
		add(&g.payments)
		var p billing.PaymentInput
		_ = json.Unmarshal(c.in, &p)
		same := c.key
		if p.Device != "" {
			same = string(c.in)
		}
		g.paid[same] = p.Amount.AmountMinor
	case "billing.usage.record":
		var u billing.UsageReport
		_ = json.Unmarshal(c.in, &u)
		g.sessions[string(u.Session)] = max(g.sessions[string(u.Session)], u.InOctets)
	case "billing.payment.bounce", "billing.payment.reverse", "billing.payment.allocate":
		for _, s := range g.subs {
			g.moved[s] = true
		}
	}
	if strings.HasPrefix(c.op, "billing.subscription.") && c.op != "billing.subscription.suspend" && c.op != "billing.subscription.reactivate" {
		g.moved[in.ID] = true
	}
	if at == g.leader && c.op == "billing.payment.record" {
		g.moved[in.SubscriptionID] = true
	}
}

// end brings the tower back and holds what must be true then.
func (g *game) end() {
	promised := map[edge.ID]billing.Subscription{}
	for _, id := range g.subs[:2] {
		promised[id] = g.subscription(g.tower, id)
	}
	g.advance(time.Duration(g.n(0, 5*24)) * time.Hour)
	g.tower.HealAndDrain()
	g.Agree()
	g.outcomes()
	g.money()
	for id, p := range promised {
		now := g.subscription(g.leader, id)
		if !g.moved[id] && p.ValidUntil != nil && !now.ValidUntil.Equal(*p.ValidUntil) {
			g.rt.Fatalf("%s is valid until %s, the tower promised %s", id, now.ValidUntil, p.ValidUntil)
		}
	}
	for id := range g.revoked {
		if key := g.making[id]; key != "" && g.state(g.leader, key).State == "conflict" {
			continue // another had taken the name: there is no such login, and its end stands in a conflict as well
		}
		c := edgetest.Ask[aaa.Credential](g.t, g.leader.Harness, isp, "aaa.credential.get", aaa.CredentialRef{ID: id})
		if c.Status != aaa.CredentialStatusRevoked {
			g.rt.Fatalf("a revoked login is %s", c.Status)
		}
	}
	var used uint64
	for _, n := range g.sessions {
		used += n
	}
	sum := uint64(0)
	for _, u := range edgetest.Ask[edge.Page[billing.SessionUsage]](g.t, g.leader.Harness, isp, "billing.usage.sessions", billing.SessionUsageList{ID: g.subs[0]}).Data {
		sum += u.Total.InOctets
	}
	if sum != used {
		g.rt.Fatalf("%d octets are counted, %d were used", sum, used)
	}
}

// state is how far the call with a key has come, as a node tells it.
func (g *game) state(at *edgetest.Member, key string) exec.OperationState {
	g.t.Helper()
	return edgetest.Ask[exec.OperationState](g.t, at.Harness, isp, "sync.operation.get", exec.OperationRef{Operation: key})
}

// outcomes holds that each call that a node said yes to is committed, once, or stands in a conflict; money always is committed.
func (g *game) outcomes() {
	conflicts := map[string]int{}
	list := exec.ConflictList{Node: g.tower.Name, ListInput: edge.ListInput{Limit: edge.MaxLimit}}
	for {
		page := edgetest.Ask[edge.Page[exec.Conflict]](g.t, g.leader.Harness, isp, "sync.conflict.list", list)
		for _, c := range page.Data {
			conflicts[c.Operation]++
		}
		if list.Cursor = page.NextCursor; list.Cursor == "" {
			break
		}
	}
	seen := map[string]bool{}
	for _, c := range g.calls {
		if seen[c.key] {
			continue
		}
		seen[c.key] = true
		for _, at := range g.Nodes {
			st := g.state(at, c.key)
			ok := st.State == "committed" && conflicts[c.key] == 0 || st.State == "conflict" && conflicts[c.key] == 1 && c.op != "billing.payment.record"
			if !ok {
				g.rt.Fatalf("%s (%s) is %s at %s and stands in %d conflicts", c.op, c.key, st.State, at.Name, conflicts[c.key])
			}
		}
	}
}

// money holds that what was paid is there once, and is either at work or credit.
func (g *game) money() {
	var want, got int64
	for _, amount := range g.paid {
		want += amount
	}
	for _, customer := range append(g.customers, edge.DeriveID("cus", g.name+"nobody", 0)) {
		for _, p := range edgetest.Ask[edge.Page[billing.Payment]](g.t, g.leader.Harness, isp, "billing.payment.list", billing.PaymentList{CustomerID: customer, ListInput: edge.ListInput{Limit: edge.MaxLimit}}).Data {
			if p.Reverses != "" {
				continue
			}
			got += p.Amount.AmountMinor
			spent := p.Unallocated.AmountMinor
			for _, a := range p.Allocations {
				spent += a.Amount.AmountMinor
			}
			switch {
			case p.Status == billing.Bounced || p.Status == billing.Reversed:
				if p.Unallocated.AmountMinor != 0 {
					g.rt.Fatalf("a payment that is %s holds credit: %+v", p.Status, p)
				}
			case spent < p.Amount.AmountMinor, p.Unallocated.AmountMinor > p.Amount.AmountMinor:
				g.rt.Fatalf("of %v %d are at work or credit: %+v", p.Amount, spent, p)
			}
		}
	}
	if got != want {
		g.rt.Fatalf("%d were paid, %d are recorded", want, got)
	}
}
