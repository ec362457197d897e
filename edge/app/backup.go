package app

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/backup"
	"wispgate/edge/exec"
	"wispgate/edge/store"
	"wispgate/edge/vault"
	"wispgate/gateway/identity"
	"wispgate/sync/cluster"
)

// seriesPrefix is where the executor keeps the numbers of the node's own series: TENANT/NAME, 64 bit big endian, then the last link's hash.
const seriesPrefix = store.Local + "series/"

// carrySeed names the purpose of the seed under which tenants' keys travel in a backup.
const carrySeed = "tenants' keys"

// backupSource is what a backup is made of: an open node, or the folder of one that is stopped.
type backupSource struct {
	dir     string
	id      nodeID
	machine *exec.Machine
	vault   *vault.Vault
	program string
	now     func() time.Time
}

// payload is a backup ready to be written: one version of the state, held until it is closed.
type payload struct {
	pre      backup.Preamble
	encoded  []byte
	transfer *exec.Transfer
}

// begin holds the state as it is now and says what it is; the tenants' keys are wrapped to a public key, that of the file's seed.
func (s backupSource) begin(publicKey []byte) (p *payload, err error) {
	t, err := s.machine.Transfer()
	if err != nil {
		return nil, err
	}
	p = &payload{transfer: t}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	size, err := t.Measure()
	if err != nil {
		return nil, err
	}
	p.pre.Manifest = backup.Manifest{
		Cluster: s.id.Cluster, Incarnation: s.id.Incarnation, Node: s.id.Node, Site: s.id.Site, Version: t.Info.Version,
		Checksum: hex.EncodeToString(size.Checksum[:]), Records: size.Records, StateBytes: size.Octets, StateTime: t.Time,
		MadeAt: s.now().UTC().Truncate(time.Second), Program: s.program, Level: cluster.FeatureLevel, Tenants: []string{}, Series: []backup.Series{},
	}
	if raw, err := os.ReadFile(filepath.Join(s.dir, "audit.pub")); err == nil { // it checks the old node's receipts when the node is gone
		p.pre.Manifest.AuditKey = strings.TrimSpace(string(raw))
	}
	if err := s.keys(p, publicKey); err != nil {
		return nil, err
	}
	if err := s.series(p); err != nil {
		return nil, err
	}
	p.encoded, err = p.pre.Encode()
	return p, err
}

// keys wraps the platform's and the tenants' data keys.
func (s backupSource) keys(p *payload, publicKey []byte) error {
	carry := func(k identity.CarriedKey) error {
		wrapped, err := s.vault.WrapFor(k.Tenant, k.Wrapped, publicKey)
		if err != nil {
			return errKeyAbsent(k.Tenant)
		}
		p.pre.Keys = append(p.pre.Keys, backup.Key{Record: k.Record, Tenant: k.Tenant, Wrapped: wrapped})
		return nil
	}
	err := p.transfer.Scan(systemKey, func(_ string, wrapped []byte) error {
		return carry(identity.CarriedKey{Tenant: edge.System, Wrapped: wrapped})
	})
	if err != nil {
		return err
	}
	return p.transfer.Scan(store.Replicated+identity.TenantKeyPrefix(), func(_ string, record []byte) error {
		k, err := identity.ReadTenantKey(record, s.id.Node)
		if err != nil {
			return err
		}
		p.pre.Manifest.Tenants = append(p.pre.Manifest.Tenants, k.Tenant)
		return carry(k)
	})
}

func errKeyAbsent(tenant string) error {
	return &edge.Error{
		Kind: edge.Unavailable, Code: "backup_key_absent", Message: "This node cannot open the data key of the tenant " + tenant + " yet, so a backup of it would hold secrets that nobody can read",
		Fix: "Wait until the node has caught up with its cluster, or make the backup on another node",
	}
}

func (s backupSource) series(p *payload) error {
	return p.transfer.Scan(seriesPrefix, func(key string, row []byte) error {
		tenant, name, ok := strings.Cut(key, "/")
		if !ok || len(row) < 8 {
			return fmt.Errorf("number series %s of this node is damaged", key)
		}
		p.pre.Manifest.Series = append(p.pre.Manifest.Series, backup.Series{
			Tenant: tenant, Name: name, Number: binary.BigEndian.Uint64(row), Hash: hex.EncodeToString(row[8:]),
		})
		return nil
	})
}

// size is the length of the whole payload, in octets.
func (p *payload) size() int64 { return int64(len(p.encoded)) + p.pre.Manifest.StateBytes }

// write writes the payload; memory is bounded whatever its size.
func (p *payload) write(ctx context.Context, w io.Writer) error {
	until := writerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return w.Write(b)
	})
	if _, err := until.Write(p.encoded); err != nil {
		return err
	}
	return p.transfer.Write(until)
}

func (p *payload) close() { p.transfer.Close() }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// payloadBuffer is at least what the parser of a dump reads at once, so that nothing is read beyond a part.
const payloadBuffer = 128 << 10

// checkPayload reads a payload to its end and compares it with its manifest.
func checkPayload(r io.Reader) (backup.Preamble, error) {
	in := &firstError{r: r}
	pre, err := readPayload(in, func(state io.Reader, pre *backup.Preamble) error {
		m := &pre.Manifest
		info, err := exec.ReadStateInfo(state)
		if err != nil {
			return err
		}
		var records uint64
		sum, err := store.ReadDump(state, func(_, _ []byte) error { records++; return nil })
		if err != nil {
			return err
		}
		if info.Version != m.Version || records != m.Records || hex.EncodeToString(sum[:]) != m.Checksum {
			return errBackupContent
		}
		return nil
	})
	return pre, in.orBetter(err)
}

// errBackupContent is a backup that was written whole and does not hold what it says.
var errBackupContent = &edge.Error{
	Kind: edge.Invalid, Code: "backup_content", Message: "The backup opens, but the state in it is not the one that its manifest names",
	Fix: "Take the backup of the night before, and look at the disk of the node that made this one",
}

// readPayload reads the preamble, hands the state over, and makes sure that nothing follows it.
func readPayload(r io.Reader, state func(io.Reader, *backup.Preamble) error) (backup.Preamble, error) {
	all := bufio.NewReaderSize(r, payloadBuffer)
	pre, err := backup.ReadPreamble(all)
	if err != nil {
		return pre, err
	}
	if pre.Manifest.Level > cluster.FeatureLevel {
		return pre, &edge.Error{
			Kind: edge.Unavailable, Code: "backup_newer", Message: fmt.Sprintf("The backup needs a program of feature level %d and this one has %d", pre.Manifest.Level, cluster.FeatureLevel),
			Fix: "Use the version that made it, " + pre.Manifest.Program + ", or a newer one",
		}
	}
	body := bufio.NewReaderSize(io.LimitReader(all, pre.Manifest.StateBytes), payloadBuffer)
	if err := state(body, &pre); err != nil {
		return pre, err
	}
	for _, rest := range []io.Reader{body, all} {
		if n, err := io.Copy(io.Discard, rest); err != nil || n > 0 {
			return pre, errors.Join(err, errBackupContent)
		}
	}
	return pre, nil
}

// firstError remembers why a reader failed: parsers above it only see that something is missing.
type firstError struct {
	r   io.Reader
	err error
}

func (f *firstError) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && f.err == nil {
		f.err = err
	}
	return n, err
}

// orBetter is the reader's error where it had one, else what the parser said, as an error for people.
func (f *firstError) orBetter(err error) error {
	switch {
	case err == nil:
		return nil
	case f.err != nil:
		return f.err
	case errors.Is(err, store.ErrDump):
		return errors.Join(errBackupContent, err)
	}
	return err
}
