package app

import (
	"time"

	"wispgate/edge"
)

// AuditRecorded is a line of a node's audit journal as it goes upstream: who did what to which records, and what came of it.
type AuditRecorded struct {
	Time      time.Time `json:"time" doc:"When it was asked."`
	Request   string    `json:"request_id,omitempty" doc:"Of the request."`
	Operation string    `json:"operation_id,omitempty" doc:"The Idempotency-Key, or the one minted."`
	Node      string    `json:"node,omitempty" doc:"Where it was asked."`
	Tenant    string    `json:"tenant,omitempty" doc:"Whose it is."`
	Actor     string    `json:"actor,omitempty" doc:"The client."`
	Key       string    `json:"key,omitempty" doc:"The credential that was shown."`
	Address   string    `json:"address,omitempty" doc:"From where."`
	Name      string    `json:"operation,omitempty" doc:"What was asked."`
	Records   []edge.ID `json:"records,omitempty" doc:"What it touched."`
	Status    int       `json:"status" doc:"Of the answer."`
	Code      string    `json:"code,omitempty" doc:"Why it was refused."`
	DryRun    bool      `json:"dry_run,omitempty" doc:"Nothing was committed."`
	Version   uint64    `json:"version,omitempty" doc:"Whose commit holds the effects."`
	Again     int       `json:"refused_again,omitempty" doc:"Further refusals of one source that one line stands for."`
}

// EventName implements edge.Event.
func (AuditRecorded) EventName() string { return "sync.audit.recorded" }

// Subject implements edge.Event: a line is about no single record.
func (AuditRecorded) Subject() edge.ID { return "" }

// AuditSigned is a signed head of a node's audit chain: with it the NOC can prove that nothing before it was altered or cut off.
type AuditSigned struct {
	Sequence    uint64 `json:"sequence" doc:"The newest record that it covers."`
	Hash        string `json:"hash" doc:"SHA-256 of that record, which covers all before it."`
	Signature   string `json:"signature" doc:"Ed25519, by the node's audit key."`
	Incarnation string `json:"incarnation" doc:"Of the journal."`
}

// EventName implements edge.Event.
func (AuditSigned) EventName() string { return "sync.audit.signed" }

// Subject implements edge.Event.
func (AuditSigned) Subject() edge.ID { return "" }
