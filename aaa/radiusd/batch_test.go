package radiusd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"
)

// ear is a peer that hears.
func ear(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (b *batch) fill(t *testing.T, fd uintptr, from ...*net.UDPConn) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for i, c := range from {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for n := 0; n < len(from); {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d datagrams arrived", n, len(from))
		}
		// Loopback delivers in the sender's context: all are there, in order, in one batch.
		if got, errno := b.receive(fd); errno == 0 {
			n += got
		}
	}
}

func TestABatchOfRepliesArrivesAsItWasQueued(t *testing.T) {
	t.Parallel()
	kernelSegments := segments
	for name, segments := range map[string]bool{"segmented": true, "plain": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := ear(t)
			if known := kernelSegments(s); segments && !known {
				t.Skip("this kernel does not know UDP_SEGMENT")
			}
			peers := []*net.UDPConn{}
			for range 2 {
				c, err := net.DialUDP("udp", nil, s.LocalAddr().(*net.UDPAddr))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				peers = append(peers, c)
			}
			rc, err := s.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			b := newBatch(segments)
			want := [2][]string{}
			err = onSocket(rc, func(fd int) error {
				b.fill(t, uintptr(fd), peers[0], peers[1])
				for i := range batchSize {
					size := 20 + i%3
					if i == 7 {
						size = maxSegment + 1
					}
					reply := fmt.Sprintf("%0*d", size, i)
					want[i%2] = append(want[i%2], reply)
					to := b.from(i % 2)
					b.queue(&to, []byte(reply), nil)
				}
				messages := b.plan()
				b.settle(0)
				if wantMessages := map[bool]int{true: 7, false: batchSize}[segments]; messages != wantMessages {
					t.Errorf("got %d messages, want %d", messages, wantMessages)
				}
				b.flush(uintptr(fd))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, c := range peers {
				var got []string
				for range want[i] {
					buf := make([]byte, 5000)
					if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
						t.Fatal(err)
					}
					n, err := c.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, string(buf[:n]))
				}
				slices.Sort(got)
				slices.Sort(want[i])
				if !slices.Equal(got, want[i]) {
					t.Errorf("peer %d: got %q, want %q", i, got, want[i])
				}
				if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("peer %d: something more arrived: %v", i, err)
				}
			}
			if b.lost != 0 || b.plain == segments {
				t.Errorf("lost %d, plain %v", b.lost, b.plain)
			}
		})
	}
}

func TestASocketThatRefusesEverythingIsNoLoop(t *testing.T) {
	t.Parallel()
	b := newBatch(true)
	for range batchSize {
		b.queue(&address{}, []byte("reply"), nil)
	}
	b.flush(^uintptr(0))
	if b.lost != batchSize || !b.plain || b.n != 0 {
		t.Errorf("got lost %d, plain %v, %d left; want all lost, one by one", b.lost, b.plain, b.n)
	}
}
