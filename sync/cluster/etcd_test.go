package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// loopback is an address that nobody uses now.
func loopback(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

// etcd is a peer to compare with: three members, each a process of its own, without TLS.
type etcd struct {
	clients []string // addresses for clients, the leader's first
	servers []int    // process ids
	http    *http.Client
}

// newEtcd starts it below dir. Where it is not installed it says so; CI has it.
func newEtcd(b *testing.B, dir string) *etcd {
	b.Helper()
	path, err := exec.LookPath("etcd")
	if err != nil {
		if os.Getenv("CI") != "" {
			b.Fatal("etcd is not installed: Debian's package is etcd-server")
		}
		b.Log("etcd is not installed (Debian's package is etcd-server): nothing to compare with")
		return nil
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	e := &etcd{http: &http.Client{Transport: &http.Transport{Protocols: &protocols}, Timeout: 30 * time.Second}}
	var peers, members []string
	for i := range 3 {
		peers = append(peers, loopback(b))
		e.clients = append(e.clients, loopback(b))
		members = append(members, fmt.Sprintf("m%d=http://%s", i, peers[i]))
	}
	for i := range 3 {
		cmd := exec.Command(path, "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("m%d", i)),
			"--listen-peer-urls", "http://"+peers[i], "--initial-advertise-peer-urls", "http://"+peers[i],
			"--listen-client-urls", "http://"+e.clients[i], "--advertise-client-urls", "http://"+e.clients[i],
			"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new", "--log-level", "error")
		cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
		check(b, cmd.Start())
		e.servers = append(e.servers, cmd.Process.Pid)
		b.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	deadline := time.Now().Add(30 * time.Second)
	for err = errors.New("not asked"); err != nil; {
		if time.Now().After(deadline) {
			b.Fatalf("etcd does not answer: %v", err)
		}
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		err = e.findLeader(ctx)
		cancel()
	}
	return e
}

// findLeader puts the leader first, once every member answers.
func (e *etcd) findLeader(ctx context.Context) error {
	if err := e.put(ctx, 0, "ready", "yes"); err != nil {
		return err
	}
	for i := range e.clients {
		answer, err := e.call(ctx, i, "/etcdserverpb.Maintenance/Status", nil)
		if err != nil {
			return err
		}
		if header, leader := protoUint(answer, 1, 2), protoUint(answer, 4); header != 0 && header == leader {
			e.clients[0], e.clients[i] = e.clients[i], e.clients[0]
			return nil
		}
	}
	return errors.New("no member leads")
}

// put writes a key at one of the members.
func (e *etcd) put(ctx context.Context, member int, key, value string) error {
	message := protoBytes(protoBytes(nil, 1, key), 2, value)
	_, err := e.call(ctx, member, "/etcdserverpb.KV/Put", message)
	return err
}

// call is one gRPC call: a message behind its head of five octets, there and back, and the status in the trailers.
func (e *etcd) call(ctx context.Context, member int, method string, message []byte) ([]byte, error) {
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+e.clients[member]+method, bytes.NewReader(append(body, message...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if s := resp.Trailer.Get("Grpc-Status"); s != "0" || len(raw) < 5 {
		return nil, fmt.Errorf("etcd answers %s: status %q %s", resp.Status, s, resp.Trailer.Get("Grpc-Message"))
	}
	return raw[5:], nil
}

func protoBytes(dst []byte, field int, val string) []byte {
	dst = binary.AppendUvarint(dst, uint64(field<<3|2))
	dst = binary.AppendUvarint(dst, uint64(len(val)))
	return append(dst, val...)
}

// protoUint is the number in a field of a message, or in a field of the message in that field; 0 where there is none.
func protoUint(message []byte, path ...int) uint64 {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		message = message[max(n, 0):]
		v, m := binary.Uvarint(message)
		if n <= 0 || m <= 0 {
			return 0
		}
		message = message[m:]
		var inner []byte
		if tag&7 == 2 {
			if v > uint64(len(message)) {
				return 0
			}
			inner, message = message[:v], message[v:]
		}
		switch {
		case tag>>3 != uint64(path[0]):
		case len(path) > 1:
			return protoUint(inner, path[1:]...)
		default:
			return v
		}
	}
	return 0
}
