package edge

import "time"

// Meta is what every record carries. Table.Put stamps it; handlers set only ID, ExternalID, Tags, Metadata and ArchivedAt.
type Meta struct {
	ID         ID                `json:"id" doc:"Identifier: prefix and UUID."`
	TenantID   string            `json:"tenant_id" check:"max=32" doc:"The tenant that owns the record."`
	ExternalID string            `json:"external_id,omitempty" check:"max=128" doc:"Identifier in another system; unique per tenant and type."`
	Version    uint64            `json:"version" doc:"Counts the record's changes; it is the ETag."`
	CreatedAt  time.Time         `json:"created_at"`
	CreatedBy  string            `json:"created_by" check:"max=64"`
	UpdatedAt  time.Time         `json:"updated_at"`
	UpdatedBy  string            `json:"updated_by" check:"max=64"`
	Tags       []string          `json:"tags,omitempty" check:"max=50 item.max=64" doc:"Words to find and group records by."`
	Metadata   map[string]string `json:"metadata,omitempty" check:"max=50 key.max=64 item.max=512" doc:"Strings of yours; carried, never interpreted."`
	ArchivedAt *time.Time        `json:"archived_at,omitempty"`
}

// Common is what a client may set of Meta when it creates or changes a record. Embed it in a command's input.
type Common struct {
	ExternalID string            `json:"external_id,omitempty" check:"max=128" doc:"Identifier in another system; unique per tenant and type."`
	Tags       []string          `json:"tags,omitempty" check:"max=50 item.max=64" doc:"Words to find and group records by."`
	Metadata   map[string]string `json:"metadata,omitempty" check:"max=50 key.max=64 item.max=512" doc:"Strings of yours; carried, never interpreted."`
}

// Meta makes the Meta of a new record with the given id.
func (c Common) Meta(id ID) Meta {
	return Meta{ID: id, ExternalID: c.ExternalID, Tags: c.Tags, Metadata: c.Metadata}
}

// CommonChange carries the changed members of Common in an update; what is absent stays as it is.
type CommonChange struct {
	ExternalID *string            `json:"external_id,omitempty" check:"max=128" doc:"Identifier in another system; unique per tenant and type."`
	Tags       *[]string          `json:"tags,omitempty" check:"max=50 item.max=64" doc:"Words to find and group records by."`
	Metadata   *map[string]string `json:"metadata,omitempty" check:"max=50 key.max=64 item.max=512" doc:"Strings of yours; carried, never interpreted."`
}

// Apply writes the present members into m.
func (c CommonChange) Apply(m *Meta) {
	Set(&m.ExternalID, c.ExternalID)
	Set(&m.Tags, c.Tags)
	Set(&m.Metadata, c.Metadata)
}

// Set assigns *from to *to when from is present: the shape of every partial update.
func Set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
