package app

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/config"
	"wispgate/edge/journal"
	"wispgate/gateway"
	"wispgate/gateway/authn"
	"wispgate/gateway/identity"
	"wispgate/gateway/limit"
)

// api is the HTTPS gateway of a node or relay with what stands behind its ports.
type api struct {
	core    *core
	index   *identity.Index
	claims  *identity.ClaimFile
	limiter *limit.Limiter
	server  *gateway.Server
	admin   *gateway.Admin

	unclaimed bool        // nobody owned the node when its doors opened
	code      edge.Secret // its one-time code then
}

// kindAudit is the only kind of the audit journal beside its heads.
const kindAudit journal.Kind = 1

// newAPI makes the identity index and the claim file: what the identity module needs.
func (c *core) newAPI() *api {
	return &api{
		core: c, index: identity.NewIndex(c.log, bindIdentity), claims: identity.NewClaimFile(c.dir, c.now, c.log),
	}
}

// identityModule is the identity domain over this node's vault. loaded runs when a tenant's key has been loaded.
func (a *api) identityModule(loaded func()) edge.Module {
	return identity.Module(identity.Ports{
		Vault: tenantKeys{a.core.secrets, loaded}, Claims: a.claims, Index: a.index, Logger: a.core.log, Node: a.core.id.Node, Ring: a.core.keyRing,
	})
}

// tenantKeys tells when a key has been loaded: what could not be opened before can be opened now.
type tenantKeys struct {
	secrets
	loaded func()
}

// LoadTenantKey implements identity.Vault.
func (t tenantKeys) LoadTenantKey(tenant string, wrapped []byte) error {
	err := t.secrets.LoadTenantKey(tenant, wrapped)
	if err == nil && t.loaded != nil {
		t.loaded()
	}
	return err
}

// bindIdentity makes the gateway's view of a credential once, when its record changes, instead of for every request.
func bindIdentity(id *authn.Identity) any {
	return &gateway.Identity{
		Actor: id.Actor, Plan: id.Limits.Plan, Client: gateway.Rate(id.Limits.ClientRate), Tenant: gateway.Rate(id.Limits.TenantRate),
	}
}

// authenticator adapts authn to the gateway's port, and lets the machine's own users in over the unix socket.
type authenticator struct {
	*authn.Authenticator
	index *identity.Index
}

// Authenticate implements gateway.Authenticator.
func (a authenticator) Authenticate(s gateway.Shown) (*gateway.Identity, error) {
	if s.Local {
		return a.local(s.Tenant)
	}
	id, err := a.Authenticator.Authenticate(authn.Shown{Bearer: s.Bearer, APIKey: s.APIKey, Peer: s.Peer, Tenant: s.Tenant, Address: s.Address})
	if err != nil {
		return nil, err
	}
	bound, ok := id.Bound.(*gateway.Identity)
	if !ok {
		return nil, edge.ErrInternal.Error(edge.Internal)
	}
	return bound, nil
}

// local is whoever may open the node's own socket: they could read its files as well. Without a tenant they act for the only one, or for
// the platform itself.
func (a authenticator) local(tenant string) (*gateway.Identity, error) {
	if tenant == "" {
		if tenant = a.index.Only(); tenant == "" {
			tenant = edge.System
		}
	}
	if tenant != edge.System && !a.index.Has(tenant) {
		return nil, authn.ErrTenant.Error(edge.Denied)
	}
	return &gateway.Identity{Actor: edge.SystemActor(strings.Clone(tenant), "console")}, nil
}

// limiter adapts limit to the gateway's port.
type limiter struct{ *limit.Limiter }

// Take implements gateway.Limiter.
func (l limiter) Take(id *gateway.Identity, class edge.Class, cost int, now time.Time) gateway.Decision {
	return decision(l.Limiter.Take(limit.Subject{
		Tenant: id.Actor.Tenant, Client: id.Actor.Subject, Plan: id.Plan, TenantRate: limit.Rate(id.Tenant), ClientRate: limit.Rate(id.Client),
	}, class, cost, now))
}

// TakeAddress implements gateway.Limiter.
func (l limiter) TakeAddress(addr netip.Addr, cost int, now time.Time) gateway.Decision {
	return decision(l.Limiter.TakeAddress(addr, cost, now))
}

func decision(d limit.Decision) gateway.Decision {
	out := gateway.Decision{
		Allowed: d.Allowed, RetryAfter: d.RetryAfter, Tightest: d.Tightest, Remaining: d.Remaining, Reset: d.Reset,
	}
	for i, p := range d.Policies() {
		out.Policies[i] = gateway.Policy{Name: p.Name, Rate: gateway.Rate(p.Rate)}
		out.Asked++
	}
	return out
}

// auditor adapts the audit journal to the gateway's port.
type auditor struct{ *journal.Journal }

// Audit implements gateway.Auditor.
func (a auditor) Audit(ctx context.Context, line []byte) error {
	_, err := a.Append(ctx, kindAudit, line)
	return err
}

// maxSocketPath is what a unix socket's address holds.
const maxSocketPath = 107

// listen opens the gateway's and the admin listener.
func (a *api) listen(listen string, modules []edge.Module, ready func() error, metrics ...func(io.Writer)) error {
	c := a.core
	cfg := c.opts.Config
	rates := limit.Defaults()
	rates.Tenant = limit.Rate{Quota: int64(cfg.Limits.TenantPerMinute), Window: time.Minute}
	rates.Client = limit.Rate{Quota: int64(cfg.Limits.ClientPerMinute), Window: time.Minute}
	rates.Address = limit.Rate{Quota: int64(cfg.Limits.UnauthenticatedPerMinute), Window: time.Minute}
	a.limiter = limit.New(rates, c.started)
	// Wrong credentials have a budget of their own, so that public requests from behind the same address do not shut out right keys.
	budget := limit.New(limit.Config{Address: rates.Address}, c.started)
	auth := authenticator{authn.New(c.now, c.effectiveTime, budget, authn.Keys(a.index, c.id.Site, nil)), a.index}
	socket := filepath.Join(c.dir, "wispgate.sock")
	access, err := c.accessLog()
	if err != nil {
		return err
	}
	listeners := []gateway.Listen{}
	listeners = append(listeners, gateway.Listen{Network: "unix", Address: socket})
	if listen != "" {
		listeners = append(listeners, gateway.Listen{Address: listen, TLS: c.ca.TLSConfig()})
	}
	if len(socket) > maxSocketPath {
		c.log.Warn("no local socket: its path is too long for the system", "path", socket)
		listeners = listeners[1:]
	}
	a.server, err = gateway.New(gateway.Config{
		Modules: modules, Listen: listeners, Version: c.opts.Version, Node: c.id.Node, Now: c.now, Logger: c.log, AccessLog: access,
		Isolated: c.exec.CutOff, Connections: cfg.API.MaxConns, PerAddress: cfg.API.MaxConnsPerIP, SmallBoard: memoryTotal() <= 512<<20,
		Pages: []gateway.Page{{Path: "/ca.crt", Type: "application/x-pem-file", Body: c.ca.PEM()}},
	}, gateway.Ports{Executor: c.exec, Authenticator: auth, Limiter: limiter{a.limiter}, Auditor: auditor{c.audit}})
	if err != nil {
		return err
	}
	if err := a.armClaim(); err != nil {
		return err
	}
	_ = os.Remove(socket)
	if err := a.server.Start(c.ctx); err != nil {
		return listenError("The API", "api.listen or relay.listen", err)
	}
	c.onStop("api", a.server.Shutdown)
	return a.listenAdmin(cfg.API, ready, metrics)
}

func (a *api) listenAdmin(cfg config.API, ready func() error, metrics []func(io.Writer)) (err error) {
	c := a.core
	c.gauges()
	parts := append([]func(io.Writer){func(w io.Writer) { _ = c.metrics.WritePrometheus(w) }, a.server.WriteMetrics}, metrics...)
	pages := map[string]http.Handler{
		"GET /log":    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = c.ring.WriteTo(w) }),
		"GET /status": statusPage(c.statusNow),
	}
	listen := gateway.AdminConfig{Address: cfg.AdminListen, Ready: ready, Metrics: parts, Profile: true, Logger: c.log, Extra: pages}
	if err := c.listenSocket(listen); err != nil {
		return err
	}
	if cfg.AdminListen == "" {
		return nil
	}
	if a.admin, err = gateway.NewAdmin(listen); err == nil {
		err = a.admin.Start(c.ctx)
	}
	if err != nil {
		return listenError("The admin listener", "api.admin_listen", err)
	}
	c.onStop("admin", a.admin.Shutdown)
	return nil
}

// listenSocket opens the administration's unix socket: the same pages, and what only those may ask who can read the folder anyway.
func (c *core) listenSocket(listen gateway.AdminConfig) error {
	listen.Network, listen.Address, listen.Profile = "unix", adminSocket(c.dir), false
	if len(listen.Address) > maxSocketPath {
		c.log.Warn("no socket for backups and the doctor: its path is too long for the system", "path", listen.Address)
		return nil
	}
	listen.Extra = maps.Clone(listen.Extra)
	maps.Copy(listen.Extra, c.localPages())
	_ = os.Remove(listen.Address)
	local, err := gateway.NewAdmin(listen)
	if err == nil {
		err = local.Start(c.ctx)
	}
	if err == nil {
		c.onStop("admin socket", local.Shutdown)
		err = os.Chmod(listen.Address, 0o600)
	}
	if err != nil {
		return fmt.Errorf("open the socket for backups and the doctor: %w", err)
	}
	return nil
}

// localPages are what the administration's socket serves besides.
func (c *core) localPages() map[string]http.Handler {
	if c.program != "node" {
		return nil
	}
	pages := c.carryPages()
	pages["POST /backup"] = c.serveBackup()
	pages["GET /doctor"] = c.serveDoctor()
	pages["POST /cluster/find"] = http.HandlerFunc(c.serveFind)
	return pages
}

// accessLog is where plain reads are noted: a file in the data folder that is begun anew when it has grown.
func (c *core) accessLog() (io.Writer, error) {
	f, err := openRotating(filepath.Join(c.dir, "access.log"), 8<<20)
	if err != nil {
		return nil, err
	}
	c.onStop("access log", func(context.Context) error { return f.Close() })
	return f, nil
}

// armClaim lays out the one-time code of a node that nobody owns. It comes before the doors open: whoever is told that the node is ready
// finds the code in its folder.
func (a *api) armClaim() (err error) {
	if a.index.Tenants() > 0 || len(a.core.members.Peers()) > 1 { // a node that joins gets its tenants from the others
		return nil
	}
	a.unclaimed = true
	a.code, err = a.claims.Arm(false)
	return err
}

// announceClaim prints the one-time code while nobody owns the node.
func (a *api) announceClaim(out io.Writer, url string) error {
	if !a.unclaimed || a.index.Tenants() > 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("\nThis " + a.core.program + " is not claimed yet. Its one-time code is in " + a.claims.Path() + ".\n")
	if a.code != "" {
		b.WriteString("\n    claim code: " + a.code.Reveal() + "\n")
	}
	b.WriteString("\nClaim it:  wispgate key claim --url " + url + " --ca-file " + filepath.Join(a.core.dir, "tls", "ca.crt") +
		" --code CODE --as SHORT-NAME --name \"Your ISP\"\n\n")
	_, err := io.WriteString(out, b.String())
	return err
}

// url is where the API answers on this machine, "" while it is switched off.
func (a *api) url() string {
	for _, addr := range a.server.Addrs() {
		if ap, err := netip.ParseAddrPort(addr.String()); err == nil {
			return urlOf(ap)
		}
	}
	return ""
}

func urlOf(ap netip.AddrPort) string {
	host := ap.Addr().Unmap()
	if host.IsUnspecified() {
		return fmt.Sprintf("https://localhost:%d", ap.Port())
	}
	return "https://" + netip.AddrPortFrom(host, ap.Port()).String()
}
