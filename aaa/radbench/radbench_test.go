package radbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

const roleEnv = "RADBENCH_ROLE"

// The test binary is also the server: started again with a role in its environment.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := Child(context.Background(), Role(role), os.Stdin, os.Stdout, time.Now, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func self(t testing.TB, role Role) *Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+string(role))
	cmd.Stderr = os.Stderr
	p, err := Start(role, cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func freeradius(t testing.TB) *Process {
	t.Helper()
	p, err := FreeRADIUS(context.Background(), t.TempDir(), 10_000, time.Now)
	if errors.Is(err, ErrNoFreeRADIUS) && os.Getenv("CI") != "true" {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	return p
}

func TestEveryServerAnswersTheBenchmark(t *testing.T) {
	servers := []*Process{self(t, RoleEcho), self(t, RoleFront)}
	if p := freeradius(t); p != nil {
		servers = append(servers, p)
	}
	for _, kind := range []Kind{PAP, CHAP, Accounting} {
		rows, err := Compare(context.Background(), Options{Kind: kind, Rounds: 1, Requests: 2000, Window: 32, Now: time.Now}, servers...)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Good != 2000 || r.Lost+r.Bad != 0 {
				t.Errorf("%s, %s: got %+v, want 2000 good replies", kind, r.Name, r)
			}
		}
	}
}

// BenchmarkServers reports CPU per verified reply and the ratios the targets are stated in. One iteration is a whole
// comparison: run it with -benchtime=1x.
func BenchmarkServers(b *testing.B) {
	for _, kind := range []Kind{PAP, CHAP, Accounting} {
		b.Run(string(kind), func(b *testing.B) {
			servers := []*Process{self(b, RoleEcho), self(b, RoleFront)}
			if p := freeradius(b); p != nil {
				servers = append(servers, p)
			}
			for b.Loop() {
				rows, err := Compare(context.Background(), Options{Kind: kind, Now: time.Now}, servers...)
				if err != nil {
					b.Fatal(err)
				}
				b.Log("\n" + Table(rows))
				b.ReportMetric(float64(rows[1].CPU), "cpu-ns/reply")
				b.ReportMetric(float64(rows[1].CPU)/float64(rows[0].CPU), "x-echo")
				if len(rows) > 2 {
					b.ReportMetric(float64(rows[2].CPU)/float64(rows[1].CPU), "freeradius/ours")
				}
				if rows[1].Lost+rows[1].Bad > 0 {
					b.Errorf("lost %d", rows[1].Lost+rows[1].Bad)
				}
			}
		})
	}
}
