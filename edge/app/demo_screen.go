package app

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// screen is the view on a terminal: one page that is refreshed in place. Only lines that changed are written, so that what someone marks
// with the mouse stays marked.
type screen struct {
	d             *demo
	out           *os.File
	colour        bool
	width, height int
	shown         []string
}

const refreshEvery = 500 * time.Millisecond

const (
	styleBold  = "1"
	styleDim   = "2"
	styleGood  = "32"
	styleBad   = "33"
	styleAlarm = "31"
	styleHead  = "1;36"
)

// in writes s in a style; widths are counted before.
func (s *screen) in(style, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (s *screen) run(ctx context.Context) {
	_, _ = s.out.WriteString("\x1b[?1049h\x1b[?25l\x1b[?7h") // another page, no cursor, wrapping on
	defer func() {
		_, _ = s.out.WriteString("\x1b[?25h\x1b[?1049l")
		s.farewell()
	}()
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		s.draw()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for drained := false; !drained; { // the page reads the board; its lines are for printers
			select {
			case <-s.d.board.lines:
			default:
				drained = true
			}
		}
	}
}

// farewell leaves the sums behind, and what to type next time.
func (s *screen) farewell() {
	p := &printer{d: s.d, out: s.out}
	p.status()
}

// rowBelow stands for a row that the line above fills by wrapping.
const rowBelow = "\x00"

// draw writes what changed since the last time.
func (s *screen) draw() {
	width, height, ok := terminalSize(s.out)
	if !ok {
		return
	}
	var b strings.Builder
	if width != s.width || height != s.height {
		s.width, s.height, s.shown = width, height, nil
		b.WriteString("\x1b[2J")
	}
	page := s.page()
	for len(page) < len(s.shown) {
		page = append(page, "")
	}
	for row, line := range page {
		if line == rowBelow || row < len(s.shown) && s.shown[row] == line {
			continue
		}
		for below := row + 1; below < len(page) && page[below] == rowBelow; below++ {
			fmt.Fprintf(&b, "\x1b[%d;1H\x1b[2K", below+1)
		}
		fmt.Fprintf(&b, "\x1b[%d;1H\x1b[2K%s", row+1, line)
	}
	b.WriteString("\x1b[2;1H") // an empty row: what is typed shows there
	s.shown = page
	_, _ = s.out.WriteString(b.String())
}

// page is the whole page: the sums, three lists that share the room there is, and at the bottom what to type. On a small terminal the
// lists give way first.
func (s *screen) page() []string {
	page, bottom := s.sums(), s.tryIt()
	const headings = 3
	room := s.height - len(page) - len(bottom) - headings
	gap := 0
	if room >= 20 {
		gap = 1
		room -= headings
	}
	if room >= headings {
		refused := min(room/2, 16)
		accepted := (room - refused) / 2
		for _, part := range []struct {
			name string
			rows []string
		}{
			{"Refused, and why", s.refusals(refused)},
			{"Accepted", s.list(accepted, styleGood, wasAccepted)},
			{"Signed webhooks, as the receiver sees them", s.list(room-refused-accepted, styleGood, wasDelivered, wasRetried, wasPutOff)},
		} {
			page = append(append(page, s.heading(part.name)), part.rows...)
			page = append(page, make([]string, gap)...)
		}
	}
	page = append(page, bottom...)
	return whole(page, s.height)
}

// whole cuts a page to a height without cutting a line that wraps.
func whole(page []string, height int) []string {
	if len(page) <= height {
		return page
	}
	cut := height
	for cut > 0 && page[cut] == rowBelow {
		cut--
	}
	return page[:cut]
}

func (s *screen) heading(text string) string {
	return s.in(styleHead, clip(text, s.width))
}

func (s *screen) sums() []string {
	d, b := s.d, s.d.board
	link := s.in(styleGood, "up")
	if !b.linkUp.Load() {
		link = s.in(styleBad, "down, nothing is lost")
	}
	doing := "Ctrl-C stops it"
	switch n := b.seeded.Load(); {
	case !d.ready.Load():
		doing = "starting"
	case n < b.subscribers.Load():
		doing = fmt.Sprintf("seeding %d of %d", n, b.subscribers.Load())
	}
	forged := s.in(styleDim, "0 forged")
	if n := b.forged.Load(); n > 0 {
		forged = s.in(styleAlarm, fmt.Sprintf("%d forged", n))
	}
	up := time.Since(d.begun).Round(time.Second)
	row := func(name, text string) string { return fit(s.in(styleDim, fmt.Sprintf(" %-12s", name))+text, s.width) }
	return []string{
		fit(s.in(styleBold, " WISPGate Edge")+s.in(styleDim, fmt.Sprintf("  a tower, a NOC and a router on loopback · %s · %s", up, doing)), s.width),
		"",
		row("Subscribers", fmt.Sprintf("%s of %d online · %s accepted · %s refused · %s silent", s.in(styleBold, count(b.online.Load())), b.subscribers.Load(), count(b.accepted.Load()), count(b.refused.Load()), count(b.silent.Load()))),
		row("Usage", fmt.Sprintf("%s down · %s up · %s records durable", s.in(styleBold, bytesText(b.dnBytes.Load())), bytesText(b.upBytes.Load()), count(b.accounted.Load()))),
		row("Events", fmt.Sprintf("%s of %s stored at the NOC · %s waiting · uplink %s", s.in(styleBold, count(b.stored.Load())), count(b.last.Load()), count(b.backlog.Load()), link)),
		row("Webhooks", fmt.Sprintf("%s verified · %s put off · %s retried · %s", s.in(styleBold, count(b.verified.Load())), count(b.putOff.Load()), count(b.retried.Load()), forged)),
		"",
	}
}

// count writes a number with commas.
func count(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// refusals is one line per reason, the ones that came last, each with its last login.
func (s *screen) refusals(rows int) []string {
	why := s.d.board.why()
	if len(why) > rows { // keep the order, leave out what has been quiet longest
		for len(why) > rows {
			oldest := 0
			for i := range why {
				if why[i].At.Before(why[oldest].At) {
					oldest = i
				}
			}
			why = append(why[:oldest], why[oldest+1:]...)
		}
	}
	out := make([]string, rows)
	for i, r := range why {
		style := styleBad
		if r.Kind == wasSilent {
			style = styleAlarm
		}
		head := fmt.Sprintf(" %s %4d× %-24s ", stampOf(r.At), r.Count, clip(plainText(r.Who), 24))
		out[i] = s.in(styleDim, clip(head, s.width)) + s.in(style, clip(plainText(r.Text), s.width-utf8.RuneCountInString(head)))
	}
	return out
}

func (s *screen) list(rows int, style string, kinds ...happeningKind) []string {
	out := make([]string, rows)
	for i, h := range s.d.board.newest(rows, kinds...) {
		style := style
		if h.Kind == wasPutOff || h.Kind == wasRetried {
			style = styleBad
		}
		head := fmt.Sprintf(" %s %-34s ", stampOf(h.At), clip(plainText(h.Who), 34))
		out[i] = s.in(styleDim, clip(head, s.width)) + s.in(style, clip(plainText(h.Text), s.width-utf8.RuneCountInString(head)))
	}
	return out
}

// tryIt is where everything answers and three lines to type. A long line fills as many rows as it needs, so that it can be marked whole.
func (s *screen) tryIt() []string {
	if !s.d.ready.Load() {
		return []string{s.in(styleDim, " Starting …")}
	}
	out := []string{s.heading("Try it")}
	for _, a := range s.d.addresses(s.height < 36) {
		out = append(out, clip(fmt.Sprintf(" %-10s %s", a[0], a[1]), s.width))
	}
	for _, c := range s.d.curls() {
		out = append(out, s.in(styleBold, c))
		for used := s.width; used < utf8.RuneCountInString(c); used += s.width {
			out = append(out, rowBelow)
		}
	}
	return out
}

var styles = regexp.MustCompile("\x1b\\[[0-9;]*m")

// fit leaves a styled line as it is when it fits, and else cuts it and drops its styles.
func fit(line string, width int) string {
	plain := styles.ReplaceAllString(line, "")
	if utf8.RuneCountInString(plain) <= width {
		return line
	}
	return clip(plain, width)
}

// clip cuts a text to a width in runes.
func clip(text string, width int) string {
	if width <= 0 {
		return ""
	}
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	runes := []rune(text)
	return string(runes[:width-1]) + "…"
}
