package edge

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// List bounds.
const (
	DefaultLimit = 50
	MaxLimit     = 200
)

// ListInput is what every list takes; embed it in a query's input.
type ListInput struct {
	Limit  int    `json:"limit,omitempty" check:"min=1 max=200" doc:"Records per page, 50 unless given."`
	Cursor string `json:"cursor,omitempty" check:"max=256" doc:"next_cursor of the page before."`
}

// Page is one page of a list, in id order.
type Page[T any] struct {
	Data       []T    `json:"data" check:"max=200"`
	NextCursor string `json:"next_cursor,omitempty" check:"max=256" doc:"Pass it as cursor to get the next page."`
	HasMore    bool   `json:"has_more"`
}

// List returns a page of the records whose index holds key; with index "" of all of the tenant's. The cursor belongs to exactly this
// list: another filter, tenant or table refuses it.
func (t *Table[T]) List(v View, index, key string, in ListInput) (Page[T], error) {
	limit := in.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	limit = min(limit, MaxLimit)
	list := strings.Join([]string{v.Actor().Tenant, t.Name, index, key}, "\x00")
	after, err := openCursor(list, in.Cursor)
	if err != nil {
		return Page[T]{}, err
	}
	page := Page[T]{Data: []T{}}
	err = t.scan(v, index, key, after, func(rec T) (bool, error) {
		if len(page.Data) == limit {
			page.HasMore = true
			return false, nil
		}
		page.Data = append(page.Data, rec)
		return true, nil
	})
	if err != nil {
		return Page[T]{}, err
	}
	if page.HasMore {
		page.NextCursor = sealCursor(list, t.Meta(&page.Data[limit-1]).ID)
	}
	return page, nil
}

// A cursor is the last id and a digest that ties it to its list. The digest needs no key: a forged cursor reaches nothing that the
// list itself does not show, because the key range comes from the actor's tenant, never from the cursor.
const cursorDigest = 12

func sealCursor(list string, last ID) string {
	sum := sha256.Sum256([]byte(list + "\x00" + string(last)))
	return base64.RawURLEncoding.EncodeToString(append(sum[:cursorDigest], last...))
}

func openCursor(list, cursor string) (ID, error) {
	if cursor == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) <= cursorDigest {
		return "", ErrCursor.Error(Invalid)
	}
	last := ID(raw[cursorDigest:])
	if sealCursor(list, last) != cursor {
		return "", ErrCursor.Error(Invalid)
	}
	return last, nil
}
