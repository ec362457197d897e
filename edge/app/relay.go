package app

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"wispgate/edge"
	"wispgate/edge/obs"
	"wispgate/gateway/ca"
	"wispgate/sync/relay"
)

// RelayNode is the NOC's program: broker, stored events, webhooks, and their API.
type RelayNode struct {
	*core
	api   *api
	relay *relay.Relay

	// Schedule are the pauses between attempts, for the demo; nil: the relay's own.
	schedule []time.Duration
}

// Relay runs a relay until ctx ends.
func Relay(ctx context.Context, opts Options) error {
	r, err := OpenRelay(ctx, opts)
	if err != nil {
		return err
	}
	if err := r.Start(); err != nil {
		return errors.Join(err, r.Stop())
	}
	if err := r.api.announceClaim(opts.Out, r.URL()); err != nil {
		return errors.Join(err, r.Stop())
	}
	r.log.Info("relay is ready", "relay", r.id.Node, "api", r.URL(), "took", r.now().Sub(r.started).Round(time.Millisecond).String())
	return r.untilDone(ctx, r.Stop)
}

// OpenRelay opens a relay's folder and state. Start opens its doors.
func OpenRelay(ctx context.Context, opts Options) (*RelayNode, error) {
	return openRelay(ctx, opts, nil)
}

func openRelay(ctx context.Context, opts Options, schedule []time.Duration) (*RelayNode, error) {
	cfg := opts.Config.Relay
	opts.Config.API.TLS, opts.Config.API.Hostnames = cfg.TLS, cfg.Hostnames // the CA is the relay's own
	c, err := newCore(ctx, opts, cfg.DataDir, "relay")
	if err != nil {
		return nil, err
	}
	r := &RelayNode{core: c, schedule: schedule}
	if err := r.openAll(); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return r, nil
}

func (r *RelayNode) openAll() (err error) {
	conf, err := r.relayConfig()
	if err != nil {
		return err
	}
	if r.relay, err = relay.New(conf); err != nil {
		return err
	}
	r.api = r.newAPI()
	return r.open([]edge.Module{r.api.identityModule(nil), relay.Module(r.relay), r.syncModule("relay", nil)}, nil, week)
}

func (r *RelayNode) relayConfig() (relay.Config, error) {
	cfg := r.opts.Config.Relay
	conf := relay.Config{
		ID: r.id.Node, Store: r.store, Version: r.opts.Version, Schedule: r.schedule, Workers: cfg.Workers, Keep: time.Duration(cfg.KeepDays) * 24 * time.Hour, Unsealer: r.vault, Now: r.now,
		Logger: r.log, Metrics: namedMetrics{r.metrics, "What the relay did."},
	}
	for _, s := range cfg.AllowPrivateCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return conf, err // the configuration was checked: unreachable, but not to be ignored
		}
		conf.AllowPrivate = append(conf.AllowPrivate, p)
	}
	if cfg.Broker == "" {
		conf.Broker = &relay.BrokerConfig{Listen: cfg.MQTTListen, TLS: r.ca.TLSConfig(), PlainListen: cfg.MQTTPlainListen}
		conf.Broker.TLS.NextProtos = nil // MQTT names no protocol
		return conf, nil
	}
	tlsConfig, err := clientTLS(cfg.BrokerCAFile, cfg.BrokerCertFile, cfg.BrokerKeyFile)
	conf.Client = &relay.ClientConfig{Brokers: []string{cfg.Broker}, Username: cfg.BrokerUsername, Password: cfg.BrokerPassword, TLS: tlsConfig}
	return conf, err
}

// Start opens the doors: the API first, then the broker and deliveries, which may need its endpoints.
func (r *RelayNode) Start() error {
	if err := r.api.listen(r.opts.Config.Relay.Listen, r.opened, r.ready); err != nil {
		return err
	}
	if err := r.relay.Start(r.ctx); err != nil {
		return listenError("The broker", "relay.mqtt_listen or relay.mqtt_plain_listen", err)
	}
	r.onStop("relay", r.relay.Stop)
	r.group.Go("audit", func(ctx context.Context) error {
		return every(ctx, time.Minute, func() error { return r.trimAudit(r.audit.Next() - 1) })
	})
	r.gauges()
	return nil
}

// Stop closes everything, last opened first.
func (r *RelayNode) Stop() error { return r.core.stop() }

// URL is where the API answers on this machine.
func (r *RelayNode) URL() string { return r.api.url() }

func (r *RelayNode) ready() error { return r.machine.Fatal() }

// IssuedCertificate is what "wispgate cert issue" wrote.
type IssuedCertificate struct {
	Node string   `json:"node"`
	Also []string `json:"also,omitempty"`
	Cert string   `json:"cert_file"`
	Key  string   `json:"key_file"`
	CA   string   `json:"ca_file"`
}

// IssueCertificate makes a client certificate for a node, signed by the CA in a relay's data folder, with which the node may speak to the
// relay's broker for itself and the clusters named in also. The files go to out; the certificate holds for life, five years at most.
func IssueCertificate(dataDir, node string, also []string, life time.Duration, out string, log io.Writer) (IssuedCertificate, error) {
	logger, _, err := obs.NewLogger(log, obs.LogOptions{Level: "error"})
	if err != nil {
		return IssuedCertificate{}, err
	}
	authority, err := ca.OpenIssuer(ca.Options{Dir: tlsDir(dataDir), Now: time.Now, Log: logger})
	if err != nil {
		return IssuedCertificate{}, err
	}
	return writeCertificate(authority, node, also, life, out)
}
