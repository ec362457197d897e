package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"wispgate/edge/store"
)

// mutual is a TLS configuration whose one certificate is its own authority.
func mutual(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n1"}, DNSNames: []string{"n1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ServerName: "n1", ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func TestRaftOverTheNetworkWantsMutualTLS(t *testing.T) {
	dir := t.TempDir()
	c := conf(dir)
	c.BindAddr = "127.0.0.1:0"
	full, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, half := range []*tls.Config{nil, {}, {ClientAuth: tls.RequireAnyClientCert}} {
		full.TLS = half
		if _, _, err := newTransport(&full); err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("got %v, want a refusal", err)
		}
	}
	full.TLS = mutual(t)
	trans, closeTrans, err := newTransport(&full)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTrans()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case rpc := <-trans.Consumer():
				rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
			case <-done:
				return
			}
		}
	}()
	// A stranger: right authority for the server, no certificate of its own.
	stranger := full.TLS.Clone()
	stranger.Certificates, stranger.NextProtos = nil, []string{alpn}
	conn, err := tls.Dial("tcp", string(trans.LocalAddr()), stranger)
	if err == nil {
		_, err = conn.Read(make([]byte, 1)) // TLS 1.3 tells the client after its handshake
		conn.Close()
	}
	if err == nil {
		t.Error("a client without a certificate got in")
	}
	peer, closePeer, err := newTransport(&full)
	if err != nil {
		t.Fatal(err)
	}
	defer closePeer()
	var vote raft.RequestVoteResponse
	if err := peer.RequestVote("n1", trans.LocalAddr(), &raft.RequestVoteRequest{}, &vote); err != nil || !vote.Granted {
		t.Errorf("a peer was not heard: %v", err)
	}
}

func TestANodeOnTheNetworkLeadsAlone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	c := conf(dir)
	c.BindAddr, c.TLS = addr, mutual(t)
	for range 2 {
		w := raise(t, dir, store.Options{}, c)
		if err := w.write(t, "a", "1"); err != nil {
			t.Error(err)
		}
		w.close(t)
	}
}

// A snapshot travels as raft carries it: opened live at one node, spooled by the sink of another, opened there, restored.
func TestASnapshotTravelsWithoutASecondCopyAtTheSender(t *testing.T) {
	fromDir, toDir := t.TempDir(), t.TempDir()
	from, to := raise(t, fromDir, store.Options{}, conf(fromDir)), raise(t, toDir, store.Options{}, conf(toDir))
	defer from.close(t)
	defer to.close(t)
	val := strings.Repeat("v", 5000)
	for i := range 60 {
		if err := from.write(t, strings.Repeat("k", i+1), val); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.node.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if err := from.write(t, "later", "than the snapshot's index"); err != nil {
		t.Fatal(err)
	}
	sending, err := newSnapshots(filepath.Join(fromDir, "raft", "snapshots"), from.machine)
	if err != nil {
		t.Fatal(err)
	}
	list, err := sending.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	meta, stream, err := sending.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	receiving, err := newSnapshots(t.TempDir(), to.machine)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := receiving.Create(meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := copyAll(sink, stream)
	if err != nil || n != meta.Size {
		t.Fatalf("got %d octets, %d promised (%v)", n, meta.Size, err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	_, arrived, err := receiving.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := (fsm{to.machine}).Restore(arrived); err != nil {
		t.Fatal(err)
	}
	v1, sum1, err1 := from.machine.Checksum()
	v2, sum2, err2 := to.machine.Checksum()
	if err1 != nil || err2 != nil || v1 != v2 || sum1 != sum2 {
		t.Errorf("version %d %x and %d %x (%v, %v)", v1, sum1, v2, sum2, err1, err2)
	}
	if left, err := receiving.names(spoolSuffix); err != nil || len(left) > 0 {
		t.Errorf("spool left behind: %v %v", left, err)
	}
}

func copyAll(to io.Writer, from io.ReadCloser) (int64, error) {
	n, err := io.Copy(to, from)
	return n, errors.Join(err, from.Close())
}
