// Package protoyaml stands in for buf.build/go/protoyaml, of which livekit/protocol calls no
// more than this. The original brings an interpreter of validation rules with its parser
// (CEL, ANTLR), which is a tenth of the binary, and nothing here has such rules.
package protoyaml

import (
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Unmarshal reads a message from YAML whose keys and values are those of its JSON.
func Unmarshal(data []byte, m proto.Message) error {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return err
	}
	keepDates(&document)
	var content any
	if err := document.Decode(&content); err != nil {
		return err
	}
	if content == nil { // an empty document is an empty message
		content = map[string]any{}
	}
	text, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("yaml that JSON cannot express: %w", err)
	}
	return protojson.Unmarshal(text, m)
}

// keepDates has dates be text, as they are written: JSON has no others.
func keepDates(n *yaml.Node) {
	if n.Tag == "!!timestamp" {
		n.Tag = "!!str"
	}
	for _, within := range n.Content {
		keepDates(within)
	}
}

// MarshalOptions are how a message is written.
type MarshalOptions struct {
	UseProtoNames bool // field_name in place of fieldName
}

// Marshal writes the JSON of a message as YAML.
func (o MarshalOptions) Marshal(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: o.UseProtoNames}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var content any
	if err := json.Unmarshal(text, &content); err != nil {
		return nil, err
	}
	return yaml.Marshal(content)
}
