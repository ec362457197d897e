// Package obs is how the node is seen: its log, its metrics, its supervised workers and what it knows about its clock.
package obs

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// RingLines is how many recent log lines stay in memory, for the app's tail and the support bundle. Flash wears, RAM
// does not.
const RingLines = 2000

const maxRingLine = 4 << 10

// LogOptions says how to log. The zero value logs from info up, as text to a terminal and as JSON elsewhere.
type LogOptions struct {
	Level  string // debug, info, warn or error; empty means info
	Format string // text, json or auto; empty means auto
	Ring   *Ring  // also keeps each line, unless nil
}

// NewLogger makes the program's logger. The returned level can be changed while it is in use. Attributes whose key
// names a secret are redacted whatever their type; edge.Secret redacts itself.
func NewLogger(w io.Writer, o LogOptions) (*slog.Logger, *slog.LevelVar, error) {
	level := new(slog.LevelVar)
	if o.Level != "" {
		if err := level.UnmarshalText([]byte(o.Level)); err != nil {
			return nil, nil, fmt.Errorf("log level: %w", err)
		}
	}
	asText := o.Format == "text"
	switch o.Format {
	case "", "auto":
		asText = isTerminal(w)
	case "text", "json":
	default:
		return nil, nil, fmt.Errorf("log format must be text, json or auto")
	}
	out := w
	if o.Ring != nil {
		out = &tee{w, o.Ring}
	}
	opt := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	if asText {
		return slog.New(slog.NewTextHandler(out, opt)), level, nil
	}
	return slog.New(slog.NewJSONHandler(out, opt)), level, nil
}

// secretKeys are attribute keys, or their last word, whose values never enter a log.
var secretKeys = map[string]bool{
	"password": true, "passphrase": true, "secret": true, "token": true, "authorization": true, "psk": true, "private_key": true,
	"api_key": true, "cookie": true,
}

func redact(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindGroup {
		return a
	}
	key := strings.ToLower(a.Key)
	if secretKeys[key] || secretKeys[key[strings.LastIndexByte(key, '_')+1:]] {
		return slog.String(a.Key, "***")
	}
	return a
}

// isTerminal reports whether w is a character device that a person looks at.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// tee keeps a line even when writing it elsewhere fails.
type tee struct {
	w    io.Writer
	ring *Ring
}

func (t *tee) Write(p []byte) (int, error) {
	_, _ = t.ring.Write(p) // cannot fail
	return t.w.Write(p)
}

// Ring keeps the most recent log lines. Each Write is one line; of longer ones the first 4 KB. It is safe for
// concurrent use, and its slots are reused.
type Ring struct {
	mu    sync.Mutex
	lines [][]byte
	next  int
	total uint64
}

// NewRing makes a ring of the given number of lines, at least one.
func NewRing(lines int) *Ring { return &Ring{lines: make([][]byte, max(1, lines))} }

// Write keeps one line. It never fails.
func (r *Ring) Write(p []byte) (int, error) {
	line := p[:min(len(p), maxRingLine)]
	for len(line) > 0 && line[len(line)-1] == '\n' {
		line = line[:len(line)-1]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines[r.next] = append(r.lines[r.next][:0], line...)
	r.next = (r.next + 1) % len(r.lines)
	r.total++
	return len(p), nil
}

// Lines copies what the ring holds, oldest first, and says how many lines were ever written.
func (r *Ring) Lines() (lines []string, total uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := int(min(r.total, uint64(len(r.lines))))
	for i := range n {
		lines = append(lines, string(r.lines[(r.next-n+i+len(r.lines))%len(r.lines)]))
	}
	return lines, r.total
}

// WriteTo writes what the ring holds, oldest first, a line each.
func (r *Ring) WriteTo(w io.Writer) (int64, error) {
	lines, _ := r.Lines()
	var sum int64
	for _, l := range lines {
		n, err := io.WriteString(w, l+"\n")
		sum += int64(n)
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}
