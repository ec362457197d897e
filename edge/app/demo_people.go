package app

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"wispgate/aaa"
	"wispgate/aaa/packet"
	"wispgate/billing"
	"wispgate/edge"
)

// trouble is what keeps a seeded subscriber from coming online; "" for nothing. There is one for each reason the front door gives.
type trouble string

const (
	wrongPassword  trouble = "wrong_password"
	misspelled     trouble = "misspelled"
	unpaid         trouble = "unpaid"
	heldByOffice   trouble = "held_by_office"
	terminated     trouble = "terminated"
	pastLastDay    trouble = "past_last_day"
	beforeFirstDay trouble = "before_first_day"
	shortVoucher   trouble = "short_voucher" // one minute of paid time: accepted, then refused
	otherDevice    trouble = "other_device"
	secondDevice   trouble = "second_device" // online, while another device tries the same login
	locked         trouble = "locked"
	neverActivated trouble = "never_activated"
	otherRouter    trouble = "other_router"
	wrongMethod    trouble = "wrong_method"
)

// troubles are dealt to the first subscribers, so that every reason shows within seconds; a full demo deals them twice.
var troubles = []trouble{
	"", wrongPassword, unpaid, misspelled, otherDevice, secondDevice, locked, terminated, pastLastDay, shortVoucher, heldByOffice,
	neverActivated, otherRouter, beforeFirstDay, wrongMethod,
}

// fewestSubscribers leaves some without trouble.
const fewestSubscribers = 24

// person is one seeded subscriber: what the office knows, and what the CPE sends.
type person struct {
	n                 int
	given, family     string
	login, password   string
	mac               packet.MAC
	chap              bool
	plan              int
	trouble           trouble
	customer, subject edge.ID
	rate              float64 // mean load, octets per second towards the subscriber
}

var (
	givenNames = strings.Fields(`Rudo Tino Ann Farai Chipo Tendai Nyasha Kuda Tariro Simba Ruva Tapiwa Amara Baraka Chidi Dalia Elif Femi
		Grace Hana Imani Jonas Kofi Lena Malik Nadia Omar Paula Qadir Rosa Samir Thandi Uma Viktor Wanjiru Ximena Yusuf Zola`)
	familyNames = strings.Fields(`Moyo Dube Ncube Sibanda Ndlovu Phiri Banda Mwangi Otieno Okafor Mensah Diallo Haddad Silva Costa Novak
		Petrov Larsen Keller Rossi Moreau Garcia Santos Khan Singh Tanaka Nguyen Kim Evans Walker Ortiz Reyes Baker Fisher Hunter Mason`)
)

// demoPlan is what the demo's ISP sells.
type demoPlan struct {
	code, name         string
	downKbps, upKbps   uint32
	price              int64 // cents
	kind               billing.PlanKind
	interval           billing.Interval
	burstDown, burstUp uint32
}

var demoPlans = []demoPlan{
	{code: "HOME10", name: "Home 10", downKbps: 10_000, upKbps: 2_000, price: 2500, kind: billing.Recurring, interval: billing.Interval{Unit: billing.Month, Count: 1}},
	{code: "HOME25", name: "Home 25", downKbps: 25_000, upKbps: 5_000, price: 3900, kind: billing.Recurring, interval: billing.Interval{Unit: billing.Month, Count: 1}, burstDown: 40_000, burstUp: 8_000},
	{code: "HOME50", name: "Home 50", downKbps: 50_000, upKbps: 10_000, price: 5900, kind: billing.Recurring, interval: billing.Interval{Unit: billing.Month, Count: 1}},
	{code: "SHOP100", name: "Shop 100", downKbps: 100_000, upKbps: 50_000, price: 14900, kind: billing.Recurring, interval: billing.Interval{Unit: billing.Month, Count: 1}},
	{code: "MINUTE", name: "One-minute voucher", downKbps: 10_000, upKbps: 2_000, price: 10, kind: billing.Prepaid, interval: billing.Interval{Unit: billing.Minute, Count: 1}},
}

const minutePlan = 4 // of demoPlans

// demoPeople makes the subscribers of a seed: always the same ones, whatever their number, but for the second deal of troubles.
func demoPeople(seed uint64, count int) []person {
	people := make([]person, count)
	deals := 1
	if count >= 200 {
		deals = 2
	}
	taken := map[string]int{}
	for i := range people {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		p := &people[i]
		p.n, p.given, p.family = i, givenNames[rng.IntN(len(givenNames))], familyNames[rng.IntN(len(familyNames))]
		name := strings.ToLower(p.given + "." + p.family)
		if taken[name]++; taken[name] > 1 {
			name += strconv.Itoa(taken[name])
		}
		p.login = name + "@demo"
		p.password = demoWord(rng, 10)
		p.mac = packet.MAC{0x4c, 0x5e, 0x0c, byte(i >> 16), byte(i >> 8), byte(i)}
		p.chap, p.plan = rng.IntN(3) == 0, rng.IntN(minutePlan)
		if i < deals*len(troubles) {
			p.trouble = troubles[i%len(troubles)]
		}
		switch p.trouble {
		case shortVoucher:
			p.plan = minutePlan
		case wrongMethod:
			p.chap = true
		case wrongPassword, misspelled, terminated:
			p.chap = false
		}
		// Most lines idle most of the time: the mean load is a small part of the rate.
		p.rate = float64(demoPlans[p.plan].downKbps) * 125 * (0.005 + 0.06*rng.Float64())
		p.customer = edge.DeriveID("cus", fmt.Sprintf("demo %d customer", seed), i)
		p.subject = edge.DeriveID("sub", fmt.Sprintf("demo %d subscription", seed), i)
	}
	return people
}

const wordLetters = "abcdefghjkmnpqrstuvwxyz23456789"

func demoWord(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = wordLetters[rng.IntN(len(wordLetters))]
	}
	return string(b)
}

// sent is the login as the CPE writes it: a misspelled one lacks a letter.
func (p *person) sent() string {
	if p.trouble == misspelled {
		return p.login[:2] + p.login[3:]
	}
	return p.login
}

// tried is the password as the CPE holds it.
func (p *person) tried() string {
	if p.trouble == wrongPassword {
		return p.password + "x"
	}
	return p.password
}

// device is the address that the CPE shows: that of a swapped one differs from what is registered.
func (p *person) device() packet.MAC {
	if p.trouble == otherDevice {
		return p.second()
	}
	return p.mac
}

// second is another device in the same house.
func (p *person) second() packet.MAC {
	m := p.mac
	m[0] = 0xd4
	return m
}

// commands make the subscriber: customer, subscription, login, activation. They go into one batch.
func (p *person) commands(s *demoSeed) []command {
	credential := aaaLogin{SubscriptionID: p.subject, Username: p.login, Password: p.password}
	now := s.start
	switch p.trouble {
	case otherDevice:
		credential.MACBinding, credential.MAC = string(aaa.BindingLocked), p.mac.String()
	case pastLastDay:
		credential.ValidUntil = new(now.Add(-24 * time.Hour))
	case beforeFirstDay:
		credential.ValidFrom = new(now.Add(30 * 24 * time.Hour))
	case otherRouter:
		credential.AllowedNAS = []edge.ID{s.OtherNAS}
	case wrongMethod:
		credential.Scheme = string(aaa.SchemeArgon)
	}
	list := []command{
		{"crm.customer.create", map[string]any{
			"id": p.customer, "kind": "person", "given_name": p.given, "family_name": p.family, "status": "active", "language": "en",
			"timezone": demoZone, "currency": demoCurrency, "emails": []string{strings.ToLower(p.given+"."+p.family) + "@example.com"},
			"external_id": fmt.Sprintf("demo-%d", p.n),
		}},
		{"billing.subscription.create", map[string]any{
			"id": p.subject, "customer_id": p.customer, "site_id": s.Site, "timezone": demoZone, "items": []map[string]any{{"plan_id": s.Plans[p.plan]}},
		}},
		{"aaa.credential.create", credential},
	}
	if p.trouble != neverActivated {
		list = append(list, command{"billing.subscription.activate", map[string]any{"id": p.subject}})
	}
	return list
}

// aftermath is what happens to the subscriber later; credential is the login's id.
func (p *person) aftermath(credential edge.ID) []command {
	switch p.trouble {
	case unpaid:
		return []command{{"billing.subscription.suspend", map[string]any{"id": p.subject, "reason": billing.ForDunning, "note": "invoice of last month"}}}
	case heldByOffice:
		return []command{{"billing.subscription.suspend", map[string]any{"id": p.subject, "reason": billing.ForAdmin, "note": "antenna to be moved"}}}
	case terminated:
		return []command{{"billing.subscription.terminate", map[string]any{"id": p.subject, "reason": "moved away"}}}
	case locked:
		return []command{{"aaa.credential.lock", map[string]any{"id": credential, "why": "stolen CPE"}}}
	}
	return nil
}

// aaaLogin is the input of aaa.credential.create. The demo holds the passwords in the clear, as a CPE does.
type aaaLogin struct {
	SubscriptionID edge.ID    `json:"subscription_id"`
	Username       string     `json:"username"`
	Password       string     `json:"password"`
	Scheme         string     `json:"scheme,omitempty"`
	MACBinding     string     `json:"mac_binding,omitempty"`
	MAC            string     `json:"mac,omitempty"`
	AllowedNAS     []edge.ID  `json:"allowed_nas,omitempty"`
	ValidFrom      *time.Time `json:"valid_from,omitempty"`
	ValidUntil     *time.Time `json:"valid_until,omitempty"`
}
