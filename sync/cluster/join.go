package cluster

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"wispgate/edge"
)

const methodJoin = "sync.join"

// knock is what a node that joins says.
type knock struct {
	Registration
	Secret string `json:"secret"`
	CSR    []byte `json:"csr"`
}

// Welcome is what it is told.
type Welcome struct {
	Cluster     string `json:"cluster"`
	Incarnation string `json:"incarnation"`
	Role        Role   `json:"role"`
	Certificate []byte `json:"certificate"`
	CA          []byte `json:"ca"`
	CAKey       []byte `json:"ca_key,omitempty"`     // sealed for the node, for a voter
	SystemKey   []byte `json:"system_key,omitempty"` // the platform's own key, wrapped for the node
	Members     []Peer `json:"members"`
}

const joinTimeout = 30 * time.Second

// token is an invitation to this node's port.
func (n *Node) token(secret string) token {
	return token{Address: n.advertised(), CA: fingerprintOf(n.conf.Credentials.CA()), Secret: secret}
}

// serveJoin answers the one request of a node that joins, by way of the leader.
func (p *port) serveJoin(in *inbound) {
	select {
	case p.joining <- struct{}{}:
		defer func() { <-p.joining }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, joinTimeout)
	defer cancel()
	now := p.node.conf.Now
	if err := in.conn.SetDeadline(now().Add(joinTimeout)); err != nil {
		return
	}
	f, err := readFrame(bufio.NewReaderSize(in.conn, 4096))
	if err != nil || f.kind != kindRequest || len(f.payload) > 64<<10 {
		return
	}
	out := &server{node: p.node, out: &frames{conn: in.conn, now: now}}
	answer, err := p.node.callPatiently(ctx, methodJoin, f.payload)
	if err != nil {
		_ = out.refuse(f.id, err) // whoever knocked has gone
		return
	}
	_ = out.out.write(frame{kind: kindAnswer, id: f.id, payload: answer})
}

// callPatiently asks the leader, and waits for one where there is none for the moment: the first node that joins makes the lone one begin
// raft anew, and one that has just died answers nobody. Only for what may be asked twice.
func (n *Node) callPatiently(ctx context.Context, method string, body []byte) ([]byte, error) {
	const pause, patience, each = 200 * time.Millisecond, 15 * time.Second, 5 * time.Second
	until := n.conf.Now().Add(patience)
	for {
		once, cancel := context.WithTimeout(ctx, each)
		answer, err := n.Call(once, "", method, body)
		cancel()
		again := errors.Is(err, ErrQuorumLost) || errors.Is(err, ErrUnknownOutcome)
		if !again || n.conf.Now().After(until) {
			return answer, err
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, err
		}
	}
}

// serveJoiner lets a node in, on the leader.
func (n *Node) serveJoiner(ctx context.Context, x edge.Executor, body []byte) ([]byte, error) {
	var k knock
	if err := json.Unmarshal(body, &k); err != nil {
		return nil, edge.ErrInput.Error(edge.Invalid, edge.Field("", "cannot be read", "use the same program as the cluster"))
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	leaf, err := n.conf.Credentials.sign(k.Node, k.CSR, n.effectiveNow())
	if err != nil {
		return nil, err
	}
	k.Fingerprint, k.Serial, k.CertificateEnd = keyFingerprint(leaf.PublicKey), leaf.SerialNumber.Text(16), leaf.NotAfter
	reply, err := edge.Do(ctx, x, self, "", "sync.node.admit", Admission{Registration: k.Registration, Digest: secretDigest(k.Secret)})
	if err != nil {
		return nil, err
	}
	var p Peer
	if err := json.Unmarshal(reply.Results[0], &p); err != nil {
		return nil, fmt.Errorf("read admitted node: %w", err)
	}
	w := Welcome{
		Cluster: n.conf.ClusterID, Incarnation: n.conf.Incarnation, Role: p.Role, Certificate: leaf.Raw,
		CA: n.conf.Credentials.CA().Raw, Members: n.conf.Directory.Peers(),
	}
	if w.Role == Voter {
		if w.CAKey, err = n.sealCAKey(p.VaultKey); err != nil {
			return nil, err
		}
	}
	if w.SystemKey, err = n.wrapSystemKey(p.VaultKey); err != nil {
		return nil, err
	}
	n.log.Info("a node joins", "node", p.Node, "role", p.Role, "address", p.Address)
	return json.Marshal(w)
}

func (n *Node) wrapSystemKey(vaultKey string) ([]byte, error) {
	if n.conf.SystemKey == nil {
		return nil, nil
	}
	wrapped, err := n.conf.SystemKey()
	if err != nil {
		return nil, err
	}
	public, err := base64.StdEncoding.DecodeString(vaultKey)
	if err != nil {
		return nil, fmt.Errorf("read vault key: %w", err)
	}
	return n.conf.Vault.WrapFor(edge.System, wrapped, public)
}

// Joiner is a node that wants to join, with nothing running yet.
type Joiner struct {
	Token          string
	Node, Site     string
	Advertise      string
	Version        string
	Dir            string // of the log; must hold no cluster
	CredentialsDir string
	Vault          Vault
	Network        Network
	Now            func() time.Time
}

// Join knocks with the token and, when it is let in, writes what the node needs to take part. keep runs before the last file is written:
// it stores what belongs elsewhere (the identity of the node, the platform's key), and its failure leaves a node that may join again
// with the same token.
func (j Joiner) Join(ctx context.Context, keep func(Welcome) error) (w Welcome, err error) {
	t, err := parseToken(j.Token)
	if err != nil {
		return w, err
	}
	if exists, err := Exists(j.Dir); err != nil || exists {
		return w, errors.Join(err, errExists(j.Dir))
	}
	if j.Network == nil {
		j.Network = tcp{}
	}
	creds, err := j.credentials()
	if err != nil {
		return w, err
	}
	if w, err = j.knockUntilHeard(ctx, t, creds); err != nil {
		return w, err
	}
	if err := j.install(creds, w); err != nil {
		return w, err
	}
	if err := keep(w); err != nil {
		return w, err
	}
	return w, identity{ClusterID: w.Cluster, NodeID: j.Node, Ready: true}.write(j.Dir)
}

// credentials are those of a first attempt, so that its admission holds for the second, or a new key.
func (j Joiner) credentials() (*Credentials, error) {
	key, err := readKey(filepath.Join(j.CredentialsDir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return newCredentials(j.CredentialsDir, "", j.Node)
	}
	return &Credentials{dir: j.CredentialsDir, node: j.Node, key: key}, err
}

// ErrUnanswered says that the node may have been let in and has not heard it: it needs its key for the next attempt.
var ErrUnanswered error = refuse("join_unanswered", "The cluster was asked, and its answer did not arrive", "Run the same command again, with the same token")

// errUnreachable matches by its code.
var errUnreachable error = refuse("unreachable", "The cluster cannot be reached", "")

// knockUntilHeard asks again when an answer was lost: the same node with the same key is let in once, however often it asks.
func (j Joiner) knockUntilHeard(ctx context.Context, t token, creds *Credentials) (w Welcome, err error) {
	asked := false
	for range 3 {
		w, err = j.knock(ctx, t, creds)
		if errors.Is(err, ErrUnknownOutcome) {
			asked = true
			continue
		}
		if asked && errors.Is(err, errUnreachable) { // which says nothing about the attempt before
			break
		}
		return w, err
	}
	return w, ErrUnanswered
}

func (j Joiner) knock(ctx context.Context, t token, creds *Credentials) (w Welcome, err error) {
	csr, err := creds.request()
	if err != nil {
		return w, err
	}
	said := knock{Secret: t.Secret, CSR: csr, Registration: Registration{
		Node: j.Node, Site: j.Site, Address: j.Advertise, VaultKey: base64.StdEncoding.EncodeToString(j.Vault.PublicKey()),
		FeatureLevel: FeatureLevel, ProgramVersion: j.Version,
	}}
	body, err := json.Marshal(said) //nolint:gosec // the secret is what this message is for: it goes to the holder of the CA that the token names
	if err != nil {
		return w, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	raw, err := j.Network.Dial(ctx, t.Address)
	if err != nil {
		return w, refuse("unreachable", fmt.Sprintf("The cluster cannot be reached at %s: %v", t.Address, err), "Check the network between the nodes, and that a firewall lets the port through")
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protoJoin},
		InsecureSkipVerify: true, // VerifyConnection judges: the token carries the fingerprint of the cluster's CA
		VerifyConnection:   func(s tls.ConnectionState) error { return provesCA(s.PeerCertificates, t.CA) },
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return w, refuse("cluster_unproved", fmt.Sprintf("What answers at %s is not the cluster of the token: %v", t.Address, err), "Make a new token on a node of the cluster")
	}
	k := newLink(conn, j.Now)
	done := make(chan struct{})
	go func() { defer close(done); k.read() }()
	defer func() { k.close(errOnce); <-done }()
	answer, err := k.askRaw(ctx, body)
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(answer, &w); err != nil {
		return w, fmt.Errorf("read welcome: %w", err)
	}
	if ca, err := x509.ParseCertificate(w.CA); err != nil || fingerprintOf(ca) != t.CA {
		return w, refuse("cluster_unproved", "The cluster's answer names another CA than the token", "Make a new token on a node of the cluster")
	}
	return w, nil
}

// provesCA says whether a chain ends in the CA with the fingerprint.
func provesCA(chain []*x509.Certificate, fingerprint string) error {
	for _, ca := range chain[min(1, len(chain)):] {
		if fingerprintOf(ca) == fingerprint {
			return chain[0].CheckSignatureFrom(ca)
		}
	}
	return errors.New("its CA is not the one that the token names")
}

// install writes credentials and members.
func (j Joiner) install(creds *Credentials, w Welcome) error {
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	creds.cluster = w.Cluster
	if err := creds.setCA(w.CA); err != nil {
		return err
	}
	if w.CAKey != nil {
		der, err := j.Vault.OpenFor(purposeCAKey, w.CAKey)
		if err != nil {
			return err
		}
		if err := creds.takeCAKey(der); err != nil {
			return err
		}
	}
	if err := creds.install(w.Certificate); err != nil {
		return err
	}
	return noteMembers(j.Dir, w.Members)
}
