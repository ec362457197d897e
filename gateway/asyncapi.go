package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"wispgate/edge"
)

// asyncAPI makes the event catalogue as an AsyncAPI 3.0 document: one channel and one message per event type, as CloudEvents 1.0.
func asyncAPI(s *Server) ([]byte, error) {
	g := &generator{schemas: obj{}, shapes: map[string]string{}}
	channels, operations, messages := obj{}, obj{}, obj{}
	for _, m := range s.cfg.Modules {
		for _, e := range m.Events {
			if edge.IsInner(e) {
				continue
			}
			name := e.EventName()
			schema, err := edge.SchemaFor(e)
			if err != nil {
				return nil, fmt.Errorf("event %s: %w", name, err)
			}
			changed := g.schema(schema, false)
			messages[name] = obj{
				"name": name, "title": name, "contentType": "application/cloudevents+json", "tags": []any{obj{"name": m.Name}},
				"payload": eventEnvelope(name, changed),
			}
			id := strings.ReplaceAll(name, ".", "_")
			channels[id] = obj{"address": name, "messages": obj{name: obj{"$ref": "#/components/messages/" + name}}}
			operations[id] = obj{"action": "send", "channel": obj{"$ref": "#/channels/" + id}, "summary": "Sent after the commit that made it true."}
		}
	}
	if err := errors.Join(g.errs...); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(obj{
		"asyncapi": "3.0.0", "id": "urn:wispgate:events", "defaultContentType": "application/cloudevents+json",
		"info": obj{
			"title": s.cfg.Title + " events", "version": s.cfg.Version,
			"description": "Facts of committed changes, in order and without gaps, over MQTT to the relay and from there to webhooks.",
		},
		"channels": channels, "operations": operations, "components": obj{"messages": messages, "schemas": g.schemas},
	})
	if err != nil {
		return nil, fmt.Errorf("encode events: %w", err)
	}
	return raw, nil
}

// eventEnvelope is the public form of an event: CloudEvents 1.0 with what changed and the record after the commit.
func eventEnvelope(name string, changed obj) obj {
	text := func(about string) obj { return obj{"type": "string", "maxLength": 255, "description": about} }
	return obj{
		"type": "object", "required": []any{"specversion", "id", "source", "type", "subject", "time", "data"},
		"properties": obj{
			"specversion":     obj{"const": "1.0"},
			"id":              text("Unique per event: dedupe by it."),
			"source":          text("The cluster or node that sent it."),
			"type":            obj{"const": "wispgate." + name + ".v1"},
			"subject":         text("Id of the record."),
			"time":            obj{"type": "string", "format": "date-time", "description": "Of the commit."},
			"datacontenttype": obj{"const": "application/json"},
			"tenantid":        text("The tenant."),
			"actor":           text("Who asked."),
			"causationid":     text("The operation id."),
			"data": obj{
				"type": "object", "required": []any{"changed"},
				"properties": obj{
					"changed": changed,
					"object":  obj{"type": []any{"object", "null"}, "description": "The record as the API shows it, after the commit."},
				},
			},
		},
	}
}
