package aaa

import (
	"time"

	"wispgate/edge"
)

// AuthRejected is a fact of a node: a login was refused there, so often, for this reason. The node gathers the refusals of some seconds
// into one fact per login, router and reason, so that a CPE that retries for ever is one line.
type AuthRejected struct {
	Login  string    `json:"login" check:"max=64" doc:"As the router sent it, the first 64 octets."`
	Reason string    `json:"reason" doc:"Stable code."`
	Says   string    `json:"says" doc:"What is wrong, one sentence."`
	Fix    string    `json:"fix" doc:"What to do."`
	Stage  string    `json:"stage" doc:"Where it was refused."`
	NAS    edge.ID   `json:"nas_id" doc:"The router it came through."`
	MAC    string    `json:"mac,omitempty" doc:"Of the device that asked."`
	Count  uint64    `json:"count" doc:"Refusals since the last fact of this kind."`
	First  time.Time `json:"first_at" doc:"The first of them."`
	Last   time.Time `json:"last_at" doc:"The last of them."`
}

// EventName implements edge.Event.
func (AuthRejected) EventName() string { return "aaa.auth.rejected" }

// Subject implements edge.Event.
func (e AuthRejected) Subject() edge.ID { return e.NAS }
