package app

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"wispgate/aaa/packet"
)

// rssMost is what the process of a node may hold, in MB.
const rssMost = 64

// rss is the resident memory of a process, in MB.
type rss struct{ all, anon, file float64 }

func (r rss) String() string {
	return fmt.Sprintf("%.0f MB heap and stacks + %.0f MB mapped files", r.anon, r.file)
}

// readRSS reads it of a process; nothing of one that has ended.
func readRSS(pid int64) (r rss) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || pid == 0 {
		return rss{}
	}
	for line := range strings.Lines(string(raw)) {
		name, rest, _ := strings.Cut(line, ":")
		at := map[string]*float64{"VmRSS": &r.all, "RssAnon": &r.anon, "RssFile": &r.file}[name]
		if at == nil {
			continue
		}
		if kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64); err == nil {
			*at = kb / 1024
		}
	}
	return r
}

// memoryWatch notes what nodes held while it looked.
type memoryWatch struct {
	quit chan struct{}
	done sync.WaitGroup

	most, last rss
	over, all  time.Duration // of all looks, those above the target
}

// watchMemory looks at nodes twenty times a second until the returned watch is stopped. A node that is down is left out.
func watchMemory(nodes ...*benchNode) *memoryWatch {
	const every = 50 * time.Millisecond
	w := &memoryWatch{quit: make(chan struct{})}
	w.done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			var now rss
			for _, n := range nodes {
				if r := readRSS(n.running.Load()); r.all > now.all {
					now = r
				}
			}
			if w.all += every; now.all > rssMost {
				w.over += every
			}
			if w.last = now; now.all > w.most.all {
				w.most = now
			}
			select {
			case <-w.quit:
				return
			case <-tick.C:
			}
		}
	})
	return w
}

// row ends the watch and adds a line: the most that one of the nodes held, of what it was, and for how long it was beyond the target.
func (w *memoryWatch) row(t *benchTable, state string) {
	close(w.quit)
	w.done.Wait()
	t.row("most memory of a node, "+state, w.most.String(), fmt.Sprintf("beyond %d MB for %.0f of %.0f s", rssMost, w.over.Seconds(), w.all.Seconds()), w.most.all, atMost(rssMost, " MB"))
}

// memory looks at the resident set after a start that follows an import, at rest, and in a minute of load.
func (p *productBench) memory() {
	p.node.stop()
	w := watchMemory(p.node)
	p.node.start()
	p.node.accepted(0)
	p.node.apiReady(p.key)
	time.Sleep(20 * time.Second)
	w.row(&p.table, "first 20 s after a restart")
	time.Sleep(20 * time.Second)
	w = watchMemory(p.node)
	time.Sleep(20 * time.Second)
	w.row(&p.table, fmt.Sprintf("idle with %d subscribers", p.subscribers))
	w = watchMemory(p.node)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if _, err := p.load(p.node.auth, packet.AccessRequest, 64, 20_000, nil).Run(context.Background()); err != nil {
			p.Fatal(err)
		}
		if _, err := p.load(p.node.acct, packet.AccountingRequest, 64, 2_000, p.interim(0)).Run(context.Background()); err != nil {
			p.Fatal(err)
		}
	}
	w.row(&p.table, "a minute of RADIUS load")
	time.Sleep(30 * time.Second)
	w = watchMemory(p.node)
	time.Sleep(10 * time.Second)
	w.row(&p.table, "half a minute after it")
}
