package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// How long certificates hold. A board may be cut off, or lie in a store room, for longer than any of it: what counts as a member is a
// record, not a date, so an expired certificate is still taken for certGrace, and for a renewal always.
const (
	certLife  = 10 * 24 * time.Hour
	certGrace = CertificateGrace
	certSkew  = time.Hour // before now, for clocks that are behind
)

const (
	// CertificateGrace is how long after its end a node's certificate opens the cluster port.
	CertificateGrace = 30 * 24 * time.Hour
	// CertificateLate is how long before its end one should have been renewed: half of its life, and a day of trying.
	CertificateLate = certLife/2 - 24*time.Hour
)

// The files of a node's credentials, all of mode 0600.
const (
	caCertFile = "ca.crt"
	caKeyFile  = "ca.key" // on voters only
	certFile   = "node.crt"
	keyFile    = "node.key"
	formerFile = "ca.former.crt" // CAs from before a recovery, on the node that made the new one
)

// Credentials are a node's certificate with its key, the cluster's CA and, on a voter, the CA's key. They stand in a folder of their own.
type Credentials struct {
	dir, cluster, node string

	mu     sync.RWMutex
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey // nil on a replica
	former []*x509.Certificate
	key    *ecdsa.PrivateKey
	leaf   *x509.Certificate
}

// MakeCredentials reads the credentials in dir or, where there are none, makes the CA of a new cluster and this node's certificate.
func MakeCredentials(dir, cluster, node string, now time.Time) (*Credentials, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster credentials: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, certFile)); err == nil {
		return LoadCredentials(dir, cluster, node)
	}
	c := &Credentials{dir: dir, cluster: cluster, node: node}
	err := c.loadCA()
	if errors.Is(err, fs.ErrNotExist) {
		err = c.makeCA()
	}
	if err == nil {
		err = c.makeKey()
	}
	if err == nil {
		err = c.renewSelf(now)
	}
	return c, err
}

// LoadCredentials reads the credentials in dir.
func LoadCredentials(dir, cluster, node string) (*Credentials, error) {
	c := &Credentials{dir: dir, cluster: cluster, node: node}
	if err := c.loadCA(); err != nil {
		return nil, err
	}
	var err error
	if c.key, err = readKey(filepath.Join(dir, keyFile)); err != nil {
		return nil, err
	}
	if c.leaf, err = readCert(filepath.Join(dir, certFile)); err != nil {
		return nil, err
	}
	if who, err := identityOf(c.leaf); err != nil || who != (subject{cluster, node}) {
		return nil, errIdentity("node, by its certificate,")
	}
	return c, nil
}

// CredentialsExist says whether dir holds credentials.
func CredentialsExist(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, certFile))
	return err == nil
}

// newCredentials begins the credentials of a node that joins: a key, and nothing else.
func newCredentials(dir, cluster, node string) (*Credentials, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster credentials: %w", err)
	}
	c := &Credentials{dir: dir, cluster: cluster, node: node}
	return c, c.makeKey()
}

func (c *Credentials) loadCA() (err error) {
	if c.ca, err = readCert(filepath.Join(c.dir, caCertFile)); err != nil {
		return err
	}
	if c.former, err = readCerts(filepath.Join(c.dir, formerFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := readKey(filepath.Join(c.dir, caKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && key.PublicKey.Equal(c.ca.PublicKey) { // else the power went while another CA was made
		c.caKey = key
	}
	return err
}

// succeed makes a new CA and this node's certificate by it, where the node does not hold the key of the present one: it goes on without the
// nodes that do, and could let nobody in. It keeps the old CA's certificate, by which it knows again whom it has left behind, and its own key,
// by which they know it. Where the power goes in between, the next attempt ends what this one began.
func (c *Credentials) succeed(now time.Time) (made bool, err error) {
	if c.whole() {
		return false, nil
	}
	if made = !c.holdsCA(); made {
		if err := c.rememberCA(); err != nil {
			return false, err
		}
		if err := c.makeCA(); err != nil {
			return false, err
		}
	}
	return made, c.renewSelf(now)
}

// rememberCA puts the present CA among the former ones.
func (c *Credentials) rememberCA() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.former, c.ca.Equal) {
		c.former = append(c.former, c.ca)
	}
	var all []byte
	for _, ca := range c.former {
		all = append(all, certPEM(ca.Raw)...)
	}
	return writeAtomic(c.dir, formerFile, all)
}

// makeCA makes the authority of a new cluster. Its validity is never looked at, so it has no end (RFC 5280, 4.1.2.5).
func (c *Credentials) makeCA() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make cluster CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "wispgate cluster " + c.cluster, SerialNumber: serial.Text(16)},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make cluster CA: %w", err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("read cluster CA: %w", err)
	}
	if err := writeKey(c.dir, caKeyFile, key); err != nil { // before the certificate: a CA without its key makes no node
		return err
	}
	if err := writeAtomic(c.dir, caCertFile, certPEM(der)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ca, c.caKey = ca, key
	return nil
}

func (c *Credentials) setCA(der []byte) error {
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("read cluster CA: %w", err)
	}
	if err := writeAtomic(c.dir, caCertFile, certPEM(der)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ca = ca
	return nil
}

func (c *Credentials) setCAKey(key *ecdsa.PrivateKey) error {
	if err := writeKey(c.dir, caKeyFile, key); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caKey = key
	return nil
}

// takeCAKey installs the CA's key that the leader handed to a voter; PKCS #8.
func (c *Credentials) takeCAKey(der []byte) error {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || !key.PublicKey.Equal(c.CA().PublicKey) {
		return errors.New("the key is not that of the cluster's CA")
	}
	return c.setCAKey(key)
}

// dropCAKey forgets the CA's key, on a node that is no voter any more.
func (c *Credentials) dropCAKey() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caKey == nil {
		return nil
	}
	if err := os.Remove(filepath.Join(c.dir, caKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the key of the cluster's CA: %w", err)
	}
	c.caKey = nil
	return nil
}

// caKeyDER is the CA's key as PKCS #8, nil on a replica.
func (c *Credentials) caKeyDER() ([]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.caKey == nil {
		return nil, nil
	}
	return x509.MarshalPKCS8PrivateKey(c.caKey)
}

func (c *Credentials) makeKey() (err error) {
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return fmt.Errorf("make node key: %w", err)
	}
	return writeKey(c.dir, keyFile, c.key)
}

// CA is the cluster's CA.
func (c *Credentials) CA() *x509.Certificate {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ca
}

// Authority is the fingerprint of the cluster's CA, as tokens carry it.
func (c *Credentials) Authority() string { return fingerprintOf(c.CA()) }

// whole says whether this node can sign certificates and has one that its CA signed.
func (c *Credentials) whole() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.caKey != nil && c.leaf.CheckSignatureFrom(c.ca) == nil
}

// holdsCA says whether this node can sign certificates.
func (c *Credentials) holdsCA() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.caKey != nil
}

// Leaf is the node's certificate.
func (c *Credentials) Leaf() *x509.Certificate {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.leaf
}

// Fingerprint is that of the node's public key, which its record pins. A renewed certificate keeps the key.
func (c *Credentials) Fingerprint() string { return keyFingerprint(c.key.Public()) }

// certificate is what TLS shows: the node's certificate and the CA's, which a node that joins compares with its token.
func (c *Credentials) certificate() *tls.Certificate {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return &tls.Certificate{Certificate: [][]byte{c.leaf.Raw, c.ca.Raw}, PrivateKey: c.key, Leaf: c.leaf}
}

// request is the node's certificate signing request.
func (c *Credentials) request() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.node}}, c.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// sign makes a certificate for a node from its request. What the request says besides the key counts for nothing.
func (c *Credentials) sign(node string, request []byte, now time.Time) (*x509.Certificate, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key of a certificate request is not ECDSA P-256")
	}
	return c.issue(node, csr.PublicKey, now)
}

func (c *Credentials) issue(node string, public any, now time.Time) (*x509.Certificate, error) {
	c.mu.RLock()
	ca, caKey := c.ca, c.caKey
	c.mu.RUnlock()
	if caKey == nil {
		return nil, errors.New("this node does not hold the key of the cluster's CA")
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: node}, NotBefore: now.Add(-certSkew), NotAfter: now.Add(certLife),
		URIs: []*url.URL{subject{c.cluster, node}.uri()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, public, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", node, err)
	}
	return x509.ParseCertificate(der)
}

// install takes a new certificate of this node into use.
func (c *Credentials) install(der []byte) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("read new certificate: %w", err)
	}
	if who, err := identityOf(leaf); err != nil || who != (subject{c.cluster, c.node}) || keyFingerprint(leaf.PublicKey) != c.Fingerprint() {
		return errors.New("the new certificate is not for this node and its key")
	}
	if err := leaf.CheckSignatureFrom(c.CA()); err != nil {
		return fmt.Errorf("check new certificate: %w", err)
	}
	if err := writeAtomic(c.dir, certFile, certPEM(der)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaf = leaf
	return nil
}

// renewSelf signs this node's own certificate, on a node that holds the CA's key. So a cluster whose nodes were all off for a year still
// finds itself again.
func (c *Credentials) renewSelf(now time.Time) error {
	leaf, err := c.issue(c.node, c.key.Public(), now)
	if err != nil {
		return err
	}
	return c.install(leaf.Raw)
}

// due says whether the certificate is past half of its life.
func (c *Credentials) due(now time.Time) bool { return now.After(c.Leaf().NotAfter.Add(-certLife / 2)) }

// subject is whose a certificate is.
type subject struct{ cluster, node string }

func (s subject) uri() *url.URL {
	return &url.URL{Scheme: "wispgate", Opaque: "cluster/" + url.PathEscape(s.cluster) + "/node/" + url.PathEscape(s.node)}
}

// errExpelled says that a certificate is a removed node's. Such a node is told so and nothing else.
var errExpelled = errors.New("the node was removed from the cluster")

var errNoIdentity = errors.New("the certificate names no node of a cluster")

func identityOf(leaf *x509.Certificate) (s subject, err error) {
	if len(leaf.URIs) != 1 || leaf.URIs[0].Scheme != "wispgate" {
		return s, errNoIdentity
	}
	parts := strings.Split(leaf.URIs[0].Opaque, "/")
	if len(parts) != 4 || parts[0] != "cluster" || parts[2] != "node" {
		return s, errNoIdentity
	}
	cluster, err1 := url.PathUnescape(parts[1])
	node, err2 := url.PathUnescape(parts[3])
	if err1 != nil || err2 != nil || cluster == "" || node == "" {
		return s, errNoIdentity
	}
	return subject{cluster, node}, nil
}

// verify proves that a certificate is a current member's: signed by the cluster's CA, for a node whose record stands and pins this key.
// expired says that its time and the grace are over, which only a renewal may ignore. When it begins does not matter: the clock of a
// board may be behind.
func (c *Credentials) verify(chain []*x509.Certificate, members *Directory, now time.Time) (node string, expired bool, err error) {
	if len(chain) == 0 {
		return "", false, errors.New("no certificate was shown")
	}
	leaf := chain[0]
	former := false // of the CA before a recovery: good for a node that was removed, which hears so and hands over what waits there
	if err := leaf.CheckSignatureFrom(c.CA()); err != nil {
		if former = c.signedFormerly(leaf); !former {
			return "", false, fmt.Errorf("the certificate is not of this cluster: %w", err)
		}
	}
	who, err := identityOf(leaf)
	if err != nil {
		return "", false, err
	}
	if who.cluster != c.cluster {
		return "", false, fmt.Errorf("the certificate is of cluster %s", who.cluster)
	}
	p, ok := members.Peer(who.node)
	if !ok {
		return "", false, fmt.Errorf("node %s is not a member", who.node)
	}
	if p.Fingerprint != "" && p.Fingerprint != keyFingerprint(leaf.PublicKey) {
		return "", false, fmt.Errorf("the key is not that of member %s", who.node)
	}
	if p.Status == Removed && (!former || p.Fingerprint != "") {
		return who.node, false, errExpelled
	}
	if former {
		return "", false, fmt.Errorf("the certificate of node %s is of the CA before the recovery", who.node)
	}
	return who.node, now.After(leaf.NotAfter.Add(certGrace)), nil
}

func (c *Credentials) signedFormerly(leaf *x509.Certificate) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.ContainsFunc(c.former, func(ca *x509.Certificate) bool { return leaf.CheckSignatureFrom(ca) == nil })
}

// apart says whether a certificate that is not of the cluster's CA is nevertheless that of a member: it names the member, and its key is the one
// that the record pins. So a node looks that recovered the cluster and made a new CA.
func (c *Credentials) apart(chain []*x509.Certificate, members *Directory, node string) bool {
	if len(chain) == 0 || chain[0].CheckSignatureFrom(c.CA()) == nil {
		return false
	}
	who, err := identityOf(chain[0])
	p, ok := members.Peer(node)
	return err == nil && ok && who == (subject{c.cluster, node}) && p.Fingerprint != "" && p.Fingerprint == keyFingerprint(chain[0].PublicKey)
}

// bundlePurpose keeps a signature over a bundle from being taken for one over anything else.
const bundlePurpose = "wispgate carried bundle v1\n"

func bundleDigest(digest []byte) []byte {
	sum := sha256.Sum256(append([]byte(bundlePurpose), digest...))
	return sum[:]
}

// signDigest signs a bundle's digest with the key of this node's certificate, which goes with it.
func (c *Credentials) signDigest(digest []byte) (value, certificate []byte, err error) {
	value, err = ecdsa.SignASN1(rand.Reader, c.key, bundleDigest(digest))
	if err != nil {
		return nil, nil, fmt.Errorf("sign bundle: %w", err)
	}
	return value, c.Leaf().Raw, nil
}

// verifyDigest names the node that signed a bundle's digest, a member or one that was removed.
func (c *Credentials) verifyDigest(digest, value, certificate []byte, members *Directory) (node string, removed bool, err error) {
	leaf, err := x509.ParseCertificate(certificate)
	if err != nil {
		return "", false, fmt.Errorf("read certificate: %w", err)
	}
	node, _, err = c.verify([]*x509.Certificate{leaf}, members, leaf.NotAfter)
	if removed = errors.Is(err, errExpelled); err != nil && !removed {
		return "", false, err
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, bundleDigest(digest), value) {
		return "", false, errors.New("the signature does not match")
	}
	return node, removed, nil
}

func keyFingerprint(public any) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return serial, nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writeKey(dir, name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return writeAtomic(dir, name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func readPEM(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read cluster credentials: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("read cluster credentials: %s is damaged; restore it from a backup, or join the node anew", path)
	}
	return block.Bytes, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read %s: not an ECDSA key", path)
	}
	return key, nil
}

// readCerts reads certificates that stand one after the other.
func readCerts(path string) (list []*x509.Certificate, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read cluster credentials: %w", err)
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		list = append(list, cert)
	}
	return list, nil
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return cert, nil
}
