package app

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"wispgate/aaa/radiusd"
)

const (
	lookEvery  = 250 * time.Millisecond
	countEvery = 3 * time.Second
	looksBack  = 200 // outcomes at once
)

// watchNode reads what the front door refused, in its own words, and how far the events are.
func (d *demo) watchNode(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	seen := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		list := d.node.radius.Recent(seen, looksBack, func(e *radiusd.Event) bool {
			return e.At.After(seen) && (e.Result == radiusd.Rejected || e.Result == radiusd.Dropped)
		})
		for i := len(list) - 1; i >= 0; i-- {
			d.board.tell(refusalOf(&list[i]))
			seen = list[i].At
		}
		d.watchStreams()
	}
}

func refusalOf(e *radiusd.Event) happening {
	h := happening{At: e.At, Kind: wasRefused, Who: e.Login, Code: e.Reason.Code, Text: e.Reason.Says + ". " + e.Reason.Fix}
	if e.Result == radiusd.Dropped {
		h.Kind = wasSilent
		if h.Who == "" {
			h.Who = "router " + e.Source
		}
	}
	return h
}

// watchStreams sums up the tenant's streams: the cluster's events and the node's facts.
func (d *demo) watchStreams() {
	var stored, last, backlog uint64
	up := true
	for _, s := range d.node.uplink.Status() {
		if s.Tenant != demoTenant {
			continue
		}
		stored, last, backlog = stored+s.Acked, last+s.Last, backlog+s.Backlog
		up = up && s.Connected
	}
	b := d.board
	b.stored.Store(int64(stored))
	b.last.Store(int64(last))
	b.backlog.Store(int64(backlog))
	b.linkUp.Store(up)
}

// watchUsage asks the API, as a dashboard would, which sessions are open and what they have used.
func (d *demo) watchUsage(ctx context.Context) {
	ticker := time.NewTicker(countEvery)
	defer ticker.Stop()
	known, first := map[string]octets{}, true
	for {
		open, err := d.openSessions(ctx)
		if err == nil {
			d.count(known, open, first)
			known, first = open, false
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

type octets struct{ in, out int64 }

// count tells how much the open sessions have grown. What sessions of a run before had used is not this run's.
func (d *demo) count(known, open map[string]octets, first bool) {
	var in, out, sessions int64
	for id, now := range open {
		was, had := known[id]
		if first && !had {
			was = now
		}
		if now != was {
			in, out, sessions = in+now.in-was.in, out+now.out-was.out, sessions+1
		}
	}
	b := d.board
	b.nodeOnline.Store(int64(len(open)))
	b.upBytes.Add(in)
	b.dnBytes.Add(out)
	if in+out > 0 {
		b.tell(happening{Kind: wasMeasured, Text: fmt.Sprintf("+%s down, +%s up, reported by %d sessions; %d online", bytesText(out), bytesText(in), sessions, len(open))})
	}
}

func (d *demo) openSessions(ctx context.Context) (map[string]octets, error) {
	all := map[string]octets{}
	query := url.Values{"open": {"true"}, "limit": {"200"}}
	for {
		var page struct {
			Data []struct {
				ID  string `json:"id"`
				In  int64  `json:"in_octets"`
				Out int64  `json:"out_octets"`
			} `json:"data"`
			HasMore bool   `json:"has_more"`
			Next    string `json:"next_cursor"`
		}
		if err := d.nodeAPI.call(ctx, http.MethodGet, "/api/v1/aaa/sessions?"+query.Encode(), "", nil, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Data {
			all[s.ID] = octets{s.In, s.Out}
		}
		if !page.HasMore || page.Next == "" {
			return all, nil
		}
		query.Set("cursor", page.Next)
	}
}

// bytesText writes octets as people read them, in powers of 1,000.
func bytesText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	f, i := float64(n), 0
	for f >= 999.5 && i < len(units)-1 {
		f /= 1000
		i++
	}
	switch {
	case i == 0 || f >= 100:
		return fmt.Sprintf("%.0f %s", f, units[i])
	case f >= 10:
		return fmt.Sprintf("%.1f %s", f, units[i])
	}
	return fmt.Sprintf("%.2f %s", f, units[i])
}
