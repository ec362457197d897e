package journal

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childWrites is the process that gets killed: 16 writers, each acknowledged record goes to standard output as
// "sequence payload" before the next is appended.
func childWrites(dir string) {
	opt := small(dir)
	opt.MaxBytes, opt.Chain = 256<<20, true
	j, err := Open(opt)
	if err != nil {
		_, _ = io.WriteString(os.Stdout, "open: "+err.Error()+"\n")
		os.Exit(1)
	}
	for g := range 16 {
		go func() {
			for i := 0; ; i++ {
				p := fmt.Sprintf("%d/%d/%d", os.Getpid(), g, i)
				seq, err := j.Append(context.Background(), 1, []byte(p))
				if err != nil {
					_, _ = io.WriteString(os.Stdout, "append: "+err.Error()+"\n")
					os.Exit(1)
				}
				_, _ = io.WriteString(os.Stdout, strconv.FormatUint(seq, 10)+" "+p+"\n")
			}
		}()
	}
	select {}
}

// TestNothingAcknowledgedIsLostWhenKilled kills a writing process over and over, on one journal, and counts outside.
func TestNothingAcknowledgedIsLostWhenKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("kills processes for seconds; not with -short")
	}
	dir, acked := t.TempDir(), map[uint64]string{}
	for round := range 6 {
		killOnce(t, dir, acked, 200+rand.IntN(1500))
		opt := small(dir)
		opt.MaxBytes, opt.Chain = 256<<20, true
		j, err := Open(opt)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		stored := map[string]uint64{}
		at := map[uint64]string{}
		if _, err := j.Read(0, 0, func(r Record) error {
			p := string(r.Payload)
			if stored[p] != 0 {
				return fmt.Errorf("%s is there twice: %d and %d", p, stored[p], r.Seq)
			}
			stored[p], at[r.Seq] = r.Seq, p
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for seq, p := range acked {
			if at[seq] != p {
				t.Fatalf("round %d: acknowledged record %d: got %q, want %q", round, seq, at[seq], p)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := Verify(dir, nil); err != nil || !r.OK() || r.Records < len(acked) {
		t.Fatalf("got %+v, %v", r, err)
	}
	t.Logf("%d acknowledged records survived 6 kills", len(acked))
}

// killOnce runs the child until it acknowledged n records, kills it, and adds what it had said to acked.
func killOnce(t *testing.T, dir string, acked map[uint64]string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "WISPGATE_JOURNAL_CHILD="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, got := bufio.NewReader(out), 0
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // a line cut short was no acknowledgement yet
		}
		number, p, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		seq, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatalf("child says %q", line)
		}
		if acked[seq] != "" {
			t.Fatalf("sequence %d was given twice: %s and %s", seq, acked[seq], p)
		}
		acked[seq] = p
		if got++; got == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed, as wanted
	if got < n {
		t.Fatalf("the child ended after %d of %d records", got, n)
	}
}
