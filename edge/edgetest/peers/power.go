package peers

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Power feeds drives. A cut takes it from all of them at the same instant.
//
// A drive is a disk as the worst honest one is: what it was told to write lies in a volatile cache, in no order, until a flush that was asked
// for after it is answered. A cut keeps what was flushed, and of the rest whatever it likes, down to single sectors.
type Power struct {
	// FlushTakes is the longest time of a flush; most take much less. While one is under way further writes are taken, which it does not cover.
	FlushTakes time.Duration
	// Lies has drives answer flushes that they do not do, to see that a test finds it out.
	Lies bool

	mu     sync.Mutex
	rng    *rand.Rand
	era    int // counts cuts: what an earlier era has sent is not heard any more
	off    bool
	drives []*Drive
}

// NewPower switches power on. The seed decides what cuts leave.
func NewPower(seed uint64) *Power {
	return &Power{FlushTakes: 200 * time.Millisecond, rng: rand.New(rand.NewPCG(seed, 2))}
}

// Drive is an image behind a volatile cache. Programs such as qemu reach it as the only export of an NBD server on a unix socket.
type Drive struct {
	Socket string

	power  *Power
	image  *os.File // what has reached the medium
	size   int64
	cache  []write          // what has not, oldest first
	first  uint64           // number of the oldest
	newest map[int64]newest // by sector: what a read sees of the cache
	broken error
}

const sector = 512

type write struct {
	at   int64
	data []byte
	kept bool // it was to be durable at once
}

type newest struct {
	write uint64
	data  []byte
}

// Cut says what a cut of power did to the writes that no flush had covered.
type Cut struct{ Writes, Kept, Torn, Lost int }

// Add counts what another did as well.
func (c *Cut) Add(o Cut) {
	c.Writes, c.Kept, c.Torn, c.Lost = c.Writes+o.Writes, c.Kept+o.Kept, c.Torn+o.Torn, c.Lost+o.Lost
}

// Drive plugs a drive in until the end of the test.
func (p *Power) Drive(t testing.TB, image string) *Drive {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d := &Drive{Socket: filepath.Join(t.TempDir(), "nbd"), power: p, image: f, size: info.Size(), newest: map[int64]newest{}}
	ln, err := net.Listen("unix", d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	go d.serve(ln)
	p.mu.Lock()
	p.drives = append(p.drives, d)
	p.mu.Unlock()
	t.Cleanup(func() {
		ln.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.era++ // whoever is still connected is not heard any more
		if err := errors.Join(d.broken, f.Close()); err != nil {
			t.Errorf("drive %s: %v", image, err)
		}
	})
	return d
}

// Cut takes the power away. Nothing is answered any more, and the images are what the drives will hold when the power is back.
func (p *Power) Cut() (c Cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	p.era++
	for _, d := range p.drives {
		d.lose(&c)
	}
	return c
}

// Back gives the power back.
func (p *Power) Back() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = false
}

// lose decides what of the cache had reached the medium. It did so in the order of the writes, wherever two are of the same sector.
func (d *Drive) lose(c *Cut) {
	rng := d.power.rng
	upTo, chance := len(d.cache), rng.Float64()
	switch rng.IntN(4) {
	case 0: // nothing more
		chance = 0
	case 1: // everything up to some moment
		upTo, chance = rng.IntN(len(d.cache)+1), 1
	}
	for i, w := range d.cache {
		c.Writes++
		switch {
		case w.kept:
			c.Kept++
		case i >= upTo || rng.Float64() >= chance:
			c.Lost++
			continue
		case i == upTo-1 || rng.IntN(4) == 0:
			c.Torn++
			for from := 0; from < len(w.data); from += sector {
				if rng.IntN(2) == 0 {
					d.destage(write{at: w.at + int64(from), data: w.data[from : from+sector]})
				}
			}
			continue
		default:
			c.Kept++
		}
		d.destage(w)
	}
	d.first += uint64(len(d.cache))
	d.cache = nil
	clear(d.newest)
}

func (d *Drive) destage(w write) {
	if _, err := d.image.WriteAt(w.data, w.at); err != nil && d.broken == nil {
		d.broken = err
	}
}

// covered is the number of the first write that a flush which is asked for now does not cover.
func (d *Drive) covered() uint64 { return d.first + uint64(len(d.cache)) }

// flush makes everything before a write durable.
func (d *Drive) flush(before uint64) {
	for ; d.first < before; d.first++ {
		w := d.cache[0]
		d.cache = d.cache[1:]
		d.destage(w)
		for at := w.at; at < w.at+int64(len(w.data)); at += sector {
			if d.newest[at].write == d.first {
				delete(d.newest, at)
			}
		}
	}
}

// put takes a write into the cache. One that is to be durable at once reaches the medium as well, and stays in the cache, so that what is
// older does not come after it.
func (d *Drive) put(w write) {
	number := d.covered()
	d.cache = append(d.cache, w)
	for from := 0; from < len(w.data); from += sector {
		d.newest[w.at+int64(from)] = newest{number, w.data[from : from+sector]}
	}
	if w.kept {
		d.destage(w)
	}
}

func (d *Drive) read(at int64, into []byte) error {
	if _, err := d.image.ReadAt(into, at); err != nil {
		return err
	}
	for from := 0; from < len(into) && len(d.newest) > 0; from += sector {
		if n, ok := d.newest[at+int64(from)]; ok {
			copy(into[from:], n.data)
		}
	}
	return nil
}

func (d *Drive) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		d.power.mu.Lock()
		c := &nbdConn{drive: d, conn: conn, in: bufio.NewReaderSize(conn, 1<<20), era: d.power.era}
		d.power.mu.Unlock()
		go func() {
			defer conn.Close()
			if err := c.greet(); err == nil {
				_ = c.run() // its end is the client's
			}
		}()
	}
}

// nbdConn is one client, as https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md has it: fixed newstyle, simple replies.
type nbdConn struct {
	drive *Drive
	conn  net.Conn
	in    *bufio.Reader
	era   int

	mu sync.Mutex // answers, each whole
}

const (
	nbdMagic       = 0x4e42444d41474943
	nbdOption      = 0x49484156454f5054
	nbdOptionReply = 0x3e889045565a9
	nbdRequest     = 0x25609513
	nbdReply       = 0x67446698

	nbdInfo, nbdGo                        = 6, 7
	nbdAck, nbdIsInfo, nbdUnsupported     = 1, 3, 1<<31 + 1
	nbdRead, nbdWrite, nbdLeave, nbdFlush = 0, 1, 2, 3

	nbdLongest = 32 << 20
	nbdInvalid = 22
	nbdIO      = 5
)

func (c *nbdConn) say(fields ...any) error {
	var out []byte
	for _, f := range fields {
		var err error
		if out, err = binary.Append(out, binary.BigEndian, f); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.conn.Write(out)
	return err
}

func (c *nbdConn) hear(into any) error { return binary.Read(c.in, binary.BigEndian, into) }

// greet agrees on the export: there is one, whatever name is asked for.
func (c *nbdConn) greet() error {
	if err := c.say(uint64(nbdMagic), uint64(nbdOption), uint16(3)); err != nil { // fixed newstyle, no zeroes
		return err
	}
	var flags uint32
	if err := c.hear(&flags); err != nil {
		return err
	}
	for {
		var option struct {
			Magic     uint64
			Kind, Len uint32
		}
		if err := c.hear(&option); err != nil {
			return err
		}
		if option.Magic != nbdOption || option.Len > 1<<16 {
			return fmt.Errorf("option %+v", option)
		}
		if _, err := c.in.Discard(int(option.Len)); err != nil {
			return err
		}
		answer := func(kind, length uint32, data ...any) error {
			return c.say(append([]any{uint64(nbdOptionReply), option.Kind, kind, length}, data...)...)
		}
		if option.Kind != nbdGo && option.Kind != nbdInfo {
			if err := answer(nbdUnsupported, 0); err != nil {
				return err
			}
			continue
		}
		const flagged, flushes, durable = 1, 4, 8
		if err := errors.Join(
			answer(nbdIsInfo, 12, uint16(0), uint64(c.drive.size), uint16(flagged|flushes|durable)),
			answer(nbdIsInfo, 14, uint16(3), uint32(sector), uint32(4096), uint32(nbdLongest)), // block sizes
			answer(nbdAck, 0),
		); err != nil || option.Kind == nbdGo {
			return err
		}
	}
}

// run serves requests. Writes and reads are answered one after the other; a flush takes its time beside them.
func (c *nbdConn) run() error {
	d, p := c.drive, c.drive.power
	for {
		var r struct {
			Magic       uint32
			Flags, Kind uint16
			Handle      uint64
			At          uint64
			Len         uint32
		}
		if err := c.hear(&r); err != nil {
			return err
		}
		if r.Magic != nbdRequest || r.Len > nbdLongest {
			return fmt.Errorf("request %+v", r)
		}
		var data []byte
		if r.Kind == nbdWrite || r.Kind == nbdRead {
			data = make([]byte, r.Len)
		}
		if r.Kind == nbdWrite {
			if _, err := io.ReadFull(c.in, data); err != nil {
				return err
			}
		}
		failed := uint32(0)
		fits := r.At%sector == 0 && r.Len%sector == 0 && r.At <= uint64(d.size) && uint64(r.Len) <= uint64(d.size)-r.At
		p.mu.Lock()
		if c.era != p.era || p.off {
			p.mu.Unlock()
			return errors.New("the power is gone")
		}
		switch {
		case r.Kind == nbdLeave:
			p.mu.Unlock()
			return nil
		case r.Kind == nbdFlush:
			before, takes := d.covered(), p.FlushTakes>>p.rng.IntN(10)
			p.mu.Unlock()
			time.AfterFunc(takes, func() { c.flushed(before, r.Handle) })
			continue
		case !fits:
			failed = nbdInvalid
		case r.Kind == nbdWrite:
			d.put(write{int64(r.At), data, r.Flags&1 != 0})
		case r.Kind == nbdRead:
			if err := d.read(int64(r.At), data); err != nil {
				failed = nbdIO
			}
		default:
			failed = nbdInvalid
		}
		p.mu.Unlock()
		answer := []any{uint32(nbdReply), failed, r.Handle}
		if r.Kind == nbdRead && failed == 0 {
			answer = append(answer, data)
		}
		if err := c.say(answer...); err != nil {
			return err
		}
	}
}

// flushed ends a flush. Under the lock, so that no cut comes between what became durable and its answer.
func (c *nbdConn) flushed(before, handle uint64) {
	p := c.drive.power
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.era != p.era || p.off {
		return
	}
	if !p.Lies {
		c.drive.flush(before)
	}
	_ = c.say(uint32(nbdReply), uint32(0), handle) // a client that is gone needs no answer
}
