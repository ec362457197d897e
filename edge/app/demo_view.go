package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// show starts the view: a screen on a terminal, lines elsewhere.
func (d *demo) show(ctx context.Context) {
	f, ok := d.o.Out.(*os.File)
	if ok && !d.o.Plain && os.Getenv("TERM") != "dumb" {
		if _, _, tty := terminalSize(f); tty {
			s := &screen{d: d, out: f, colour: os.Getenv("NO_COLOR") == ""}
			d.view.Go(func() { s.run(ctx) })
			return
		}
	}
	p := &printer{d: d, out: d.o.Out, spent: map[happeningKind]int{}}
	p.head()
	d.view.Go(func() { p.run(ctx) })
}

// addresses are where everything answers; in short they take two lines.
func (d *demo) addresses(short bool) [][2]string {
	p := d.state.Ports
	if short {
		return [][2]string{
			{"API", fmt.Sprintf("https://%s · relay :%d · metrics :%d · RADIUS :%d, :%d", loopback(p.API), p.RelayAPI, p.Admin, p.Auth, p.Acct)},
			{"key", d.state.NodeKey},
		}
	}
	return [][2]string{
		{"API, docs", "https://" + loopback(p.API) + "/docs"},
		{"metrics", "http://" + loopback(p.Admin) + "/metrics"},
		{"relay API", "https://" + loopback(p.RelayAPI) + "/docs"},
		{"RADIUS", fmt.Sprintf("127.0.0.1, %d authentication, %d accounting", p.Auth, p.Acct)},
		{"key", d.state.NodeKey},
	}
}

// printer is the view without a terminal: one line per happening, a status line now and then.
type printer struct {
	d     *demo
	out   io.Writer
	spent map[happeningKind]int // lines of this second
	held  int                   // lines left out this second
	told  bool                  // addresses and curl lines
}

const (
	statusEvery    = 5 * time.Second
	linesPerSecond = 4 // of accepts and webhooks; what is rarer is never left out
)

func (p *printer) line(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format+"\n", args...) }

func (p *printer) head() {
	d := p.d
	verb := "begins"
	if d.again {
		verb = "continues"
	}
	p.line("WISPGate demo %s: %d subscribers of seed %d, data in %s", verb, len(d.people), d.state.Seed, d.dir)
}

// try prints where to look and what to type, once there is a key.
func (p *printer) try() {
	if p.told || !p.d.ready.Load() {
		return
	}
	p.told = true
	for _, a := range p.d.addresses(false) {
		p.line("  %-10s %s", a[0], a[1])
	}
	p.line("Try it: list subscribers, ask why one is refused, suspend one (and see it refused within half a minute):")
	for _, c := range p.d.curls() {
		p.line("  %s", c)
	}
}

func (p *printer) run(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	status := time.NewTicker(statusEvery)
	defer status.Stop()
	for {
		select {
		case h := <-p.d.board.lines:
			p.happened(&h)
		case <-second.C:
			p.try()
			if p.held > 0 {
				p.line("%s … and %d more", stampOf(time.Now()), p.held)
			}
			p.held = 0
			clear(p.spent)
		case <-status.C:
			p.status()
		case <-ctx.Done():
			p.status()
			return
		}
		p.try()
	}
}

func stampOf(t time.Time) string { return t.Format(time.TimeOnly) }

func (p *printer) happened(h *happening) {
	if p.spent[h.Kind]++; p.spent[h.Kind] > linesPerSecond && (h.Kind == wasAccepted || h.Kind == wasDelivered) {
		p.held++
		return
	}
	who := plainText(h.Who)
	if h.Code != "" {
		who += "  " + h.Code
	}
	if who != "" {
		who += "  "
	}
	p.line("%s %-8s  %s%s", stampOf(h.At), h.Kind, who, plainText(h.Text))
}

func (p *printer) status() {
	b := p.d.board
	p.line("%s status    online %d of %d · accepted %d, refused %d, silent %d · usage %s down, %s up · events stored %d of %d, waiting %d · webhooks verified %d, retried %d, forged %d",
		stampOf(time.Now()), b.online.Load(), b.subscribers.Load(), b.accepted.Load(), b.refused.Load(), b.silent.Load(),
		bytesText(b.dnBytes.Load()), bytesText(b.upBytes.Load()), b.stored.Load(), b.last.Load(), b.backlog.Load(),
		b.verified.Load(), b.retried.Load(), b.forged.Load())
}

// plainText keeps control characters away from a terminal: logins come from the network.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0xfeff {
			return '\uFFFD'
		}
		return r
	}, s)
}
