package peers

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// client is as much of an NBD client as shows what a drive does.
type client struct {
	t    *testing.T
	conn net.Conn
}

func (c client) say(fields ...any) {
	c.t.Helper()
	for _, f := range fields {
		if err := binary.Write(c.conn, binary.BigEndian, f); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c client) hear(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

func connect(t *testing.T, d *Drive) client {
	t.Helper()
	conn, err := net.Dial("unix", d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := client{t, conn}
	c.hear(18)
	c.say(uint32(3), uint64(nbdOption), uint32(nbdGo), uint32(6), uint32(0), uint16(0))
	export := c.hear(20 + 12)
	if size := binary.BigEndian.Uint64(export[22:]); size != uint64(d.size) {
		t.Fatalf("the export has %d octets, want %d", size, d.size)
	}
	c.hear(20 + 14 + 20)
	return c
}

func (c client) ask(flags, kind uint16, at, length int, data []byte) {
	c.t.Helper()
	c.say(uint32(nbdRequest), flags, kind, uint64(7), uint64(at), uint32(length), data)
	if answer := c.hear(16); binary.BigEndian.Uint32(answer) != nbdReply || binary.BigEndian.Uint32(answer[4:]) != 0 {
		c.t.Fatalf("request %d was answered with % x", kind, answer)
	}
}

func (c client) write(flags uint16, at int, data []byte) {
	c.t.Helper()
	c.ask(flags, nbdWrite, at, len(data), data)
}

func (c client) read(at, n int) []byte {
	c.t.Helper()
	c.ask(0, nbdRead, at, n, nil)
	return c.hear(n)
}

// TestADriveKeepsWhatWasFlushed compares drives that lose their power with the histories of their sectors: a sector holds what the last flush
// covered, or something that was written to it later.
func TestADriveKeepsWhatWasFlushed(t *testing.T) {
	const sectors = 64
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, sectors*sector), 0o600); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	rng, p := rand.New(rand.NewPCG(seed, 0)), NewPower(seed)
	p.FlushTakes = 0
	d := p.Drive(t, image)
	history := make([][]uint64, sectors) // what each may hold; the newest last
	for i := range history {
		history[i] = []uint64{0}
	}
	var all Cut
	version := uint64(0)
	for round := range 100 {
		c := connect(t, d)
		for range rng.IntN(60) {
			at, n := rng.IntN(sectors-8), 1+rng.IntN(8)
			switch kind := rng.IntN(10); kind {
			case 0:
				c.ask(0, nbdFlush, 0, 0, nil)
				for i, h := range history {
					history[i] = h[len(h)-1:]
				}
			default:
				version++
				stamp := binary.BigEndian.AppendUint64(nil, version)
				durable := kind == 1
				flags := uint16(0)
				if durable {
					flags = 1
				}
				c.write(flags, at*sector, bytes.Repeat(stamp, n*sector/len(stamp)))
				for i := at; i < at+n; i++ {
					if history[i] = append(history[i], version); durable {
						history[i] = history[i][len(history[i])-1:]
					}
				}
			}
			for i, h := range history[at : at+n] {
				if got := binary.BigEndian.Uint64(c.read((at+i)*sector, sector)); got != h[len(h)-1] {
					t.Fatalf("seed %d: sector %d reads as %d, want %v", seed, at+i, got, h)
				}
			}
		}
		all.Add(p.Cut())
		left, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range history {
			got := binary.BigEndian.Uint64(left[i*sector:])
			may := false
			for _, v := range h {
				may = may || v == got
			}
			if !may {
				t.Fatalf("seed %d, cut %d: sector %d holds %d, may hold %v", seed, round, i, got, h)
			}
			history[i] = []uint64{got}
		}
		p.Back()
	}
	if all.Kept == 0 || all.Torn == 0 || all.Lost == 0 {
		t.Errorf("the cuts did not do everything: %+v", all)
	}
}

// TestADriveAnswersNothingAfterACut holds that what was on its way when the power went changes nothing when it is back.
func TestADriveAnswersNothingAfterACut(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 8*sector), 0o600); err != nil {
		t.Fatal(err)
	}
	p := NewPower(1)
	d := p.Drive(t, image)
	old := connect(t, d)
	old.write(0, 0, bytes.Repeat([]byte{1}, sector))
	p.Cut()
	p.Back()
	held := connect(t, d).read(0, sector)
	old.say(uint32(nbdRequest), uint16(1), uint16(nbdWrite), uint64(7), uint64(0), uint32(sector), bytes.Repeat([]byte{2}, sector))
	if n, err := old.conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d octets of an answer to a client of before the cut", n)
	}
	if got := connect(t, d).read(0, sector); !bytes.Equal(got, held) {
		t.Errorf("a write of before the cut arrived after it")
	}
}

// TestADriveThatLiesLoses holds that a drive which does not flush can be told from one that does.
func TestADriveThatLiesLoses(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, sector), 0o600); err != nil {
		t.Fatal(err)
	}
	p := NewPower(1)
	p.Lies = true
	d := p.Drive(t, image)
	for range 100 {
		c := connect(t, d)
		c.write(0, 0, bytes.Repeat([]byte{1}, sector))
		c.ask(0, nbdFlush, 0, 0, nil)
		p.Cut()
		p.Back()
		if left, err := os.ReadFile(image); err != nil || left[0] == 0 {
			return
		}
		if err := os.WriteFile(image, make([]byte, sector), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Error("a drive that does not flush kept everything through a hundred cuts")
}
