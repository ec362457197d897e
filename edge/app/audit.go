package app

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"wispgate/edge"
	"wispgate/edge/journal"
)

// AuditReport is what "wispgate audit verify" found.
type AuditReport struct {
	Folder  string `json:"folder"`
	Verdict string `json:"verdict"` // intact or damaged
	journal.Report
}

// Err is the report as an error: nil when the chain is intact.
func (r AuditReport) Err() error {
	if r.OK() {
		return nil
	}
	return &edge.Error{
		Kind: edge.Internal, Code: "audit_damaged", Message: fmt.Sprintf("The audit log has %d problems", len(r.Problems)),
		Fix: "Keep the folder as evidence, and compare with the heads that the relay holds",
	}
}

// VerifyAudit checks an audit journal offline: the chain, the signed heads, gaps. dir is a node's data folder or the journal itself;
// publicKey names a file with the node's public key, "" takes the one beside the journal.
func VerifyAudit(dir, publicKey string) (AuditReport, error) {
	folder := dir
	if _, err := os.Stat(filepath.Join(dir, "audit")); err == nil {
		folder = filepath.Join(dir, "audit")
	}
	if publicKey == "" {
		publicKey = filepath.Join(filepath.Dir(folder), "audit.pub")
	}
	raw, err := os.ReadFile(publicKey)
	if err != nil {
		return AuditReport{}, &edge.Error{Kind: edge.NotFound, Code: "audit_key_missing", Message: "The node's public audit key cannot be read", Fix: "Name its file with --public-key; a node keeps it as audit.pub in its data folder"}
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return AuditReport{}, &edge.Error{Kind: edge.Invalid, Code: "audit_key_invalid", Message: "The file does not hold an audit key", Fix: "It must hold 64 hexadecimal digits"}
	}
	report, err := journal.Verify(folder, key)
	r := AuditReport{Folder: folder, Verdict: "intact", Report: report}
	if !r.OK() {
		r.Verdict = "damaged"
	}
	return r, err
}

// Of the audit journal's bound, from where the oldest lines may go and how much at once.
const (
	auditFull  = 0.8
	auditShare = 10 // a tenth
)

// trimAudit makes room in an audit journal that is nearly full: its oldest lines go, up to upto, which the NOC holds or which nobody will
// ask for. The chain of what stays still verifies. While the NOC is away longer than the room lasts, nothing goes and commands are
// refused: what was promised to be accounted for is not dropped.
func (c *core) trimAudit(upto uint64) error {
	st := c.audit.Stats()
	if float64(st.Unconsumed) < auditFull*float64(st.MaxBytes) {
		return nil
	}
	oldest := min(st.First+(st.Next-st.First)/auditShare, upto)
	if oldest <= st.First {
		return nil
	}
	c.log.Info("audit journal is nearly full, its oldest lines go", "upto", oldest)
	return trimTo(c.audit, oldest)
}

// signAudit signs the newest line, so that a chain whose end is cut off while the program is down is noticed.
func (c *core) signAudit(ctx context.Context) error {
	if c.audit.Next() == 1 {
		return nil
	}
	_, err := c.audit.SignHead(ctx)
	return err
}

// every runs step again and again until ctx ends or it fails.
func every(ctx context.Context, pause time.Duration, step func() error) error {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := step(); err != nil {
				return err
			}
		}
	}
}
