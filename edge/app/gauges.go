package app

import (
	"encoding/json"
	"net/http"

	"wispgate/sync/uplink"
)

// gauges registers what a scrape reads off the parts that run: disk, journals, log, clock, certificate. The alert rules in docs/alerts.yml
// rest on them.
func (c *core) gauges() {
	g := c.metrics
	g.GaugeFunc("wispgate_disk_free_bytes", "Free space where the data folder is.", func() float64 { return float64(c.store.DiskState().Free) })
	g.GaugeFunc("wispgate_disk_level", "0 ok, 1 warn, 2 low (growth is refused), 3 critical (read only).", func() float64 { return float64(c.store.DiskState().Level) })
	g.GaugeFunc("wispgate_clock_trusted", "Whether things fall due: 1 or 0.", func() float64 { return number(c.clockTrusted()) })
	g.GaugeFunc("wispgate_cluster_leader_known", "Whether commands can be committed: 1 or 0.", func() float64 { return number(c.cluster.Status().Leader != "") })
	c.clusterGauges()
	g.GaugeFunc("wispgate_state_version", "Version of the replicated state.", func() float64 { return float64(c.cluster.Status().Version) })
	g.GaugeFunc("wispgate_certificate_expires_timestamp_seconds", "When the server certificate ends.", func() float64 { return float64(c.ca.Status().Until.Unix()) })
	g.GaugeFunc("wispgate_pending_writes", "Writes accepted here that the cluster has not taken over.", func() float64 { return float64(c.exec.Pending().Waiting) })
	g.GaugeFunc("wispgate_pending_oldest_timestamp_seconds", "When the first of them was accepted; 0 without any.", func() float64 {
		if at := c.exec.Pending().Oldest; at != nil {
			return float64(at.Unix())
		}
		return 0
	})
	g.GaugeFunc("wispgate_cut_off", "Whether this node has lost the cluster: 1 or 0.", func() float64 { return number(c.exec.CutOff()) })
	disk := g.Gauge("wispgate_journal_bytes", "Disk space of a journal, its reserve included.", "journal")
	bound := g.Gauge("wispgate_journal_max_bytes", "Most disk space of a journal.", "journal")
	waits := g.Gauge("wispgate_journal_unconsumed_bytes", "Written to a journal and not yet released by its reader.", "journal")
	lost := g.Gauge("wispgate_journal_lost_records", "Acknowledged records that the disk damaged and whose note nobody has removed yet.", "journal")
	full := g.Gauge("wispgate_journal_full", "Whether the last record was refused for lack of room: 1 or 0.", "journal")
	for name, j := range c.journals {
		disk.Func(func() float64 { return float64(j.Stats().Bytes) }, name)
		bound.Func(func() float64 { return float64(j.Stats().MaxBytes) }, name)
		waits.Func(func() float64 { return float64(j.Stats().Unconsumed) }, name)
		lost.Func(func() float64 { return float64(j.Stats().Lost) }, name)
		full.Func(func() float64 { return number(j.Stats().Full) }, name)
	}
}

// uplinkGauges registers how the streams stand, summed up: tenants come and go, series must not.
func (c *core) uplinkGauges(streams func() []uplink.StreamStatus) {
	count := func(of func(uplink.StreamStatus) float64) func() float64 {
		return func() (n float64) {
			for _, s := range streams() {
				n += of(s)
			}
			return n
		}
	}
	g := c.metrics
	g.GaugeFunc("wispgate_uplink_streams", "Streams to the NOC.", count(func(uplink.StreamStatus) float64 { return 1 }))
	g.GaugeFunc("wispgate_uplink_streams_connected", "Streams to the NOC that are connected.", count(func(s uplink.StreamStatus) float64 { return number(s.Connected) }))
	g.GaugeFunc("wispgate_uplink_streams_refused", "Streams that the relay refuses, as after a restored backup.", count(func(s uplink.StreamStatus) float64 { return number(s.Problem != nil) }))
	g.GaugeFunc("wispgate_uplink_backlog", "Positions that the relay has not acknowledged, over all streams.", count(func(s uplink.StreamStatus) float64 { return float64(s.Backlog) }))
}

// gauges registers how the relay stands.
func (r *RelayNode) gauges() {
	g := r.metrics
	g.GaugeFunc("wispgate_relay_broker_connected", "Whether the relay hears its broker: 1 or 0.", func() float64 { return number(r.relay.Status().Connected) })
	g.GaugeFunc("wispgate_relay_streams", "Streams of the towers that are followed.", func() float64 { return float64(r.relay.Status().Streams) })
	g.GaugeFunc("wispgate_relay_deliveries_waiting", "Webhook deliveries that wait or are under way.", func() float64 { return float64(r.relay.Status().Queued) })
	g.GaugeFunc("wispgate_relay_storing", "Whether events can be stored, and so acknowledged: 1 or 0.", func() float64 { return number(r.relay.Status().Problem == nil) })
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// statusPage shows the status of all tenants to whoever reaches the local listener.
func statusPage(status func() Status) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status())
	}
}
