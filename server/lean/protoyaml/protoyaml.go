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
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unmarshal reads a message from YAML whose keys and values are those of its JSON.
func Unmarshal(data []byte, m proto.Message) error {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return err
	}
	keepDates(&document)
	if len(document.Content) == 1 {
		keepTexts(document.Content[0], m.ProtoReflect().Descriptor())
	}
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

// keepTexts has the values of a message's text fields be text, as they are written, where
// they look like a number or a truth value. What an alias names is read as YAML has it.
func keepTexts(n *yaml.Node, of protoreflect.MessageDescriptor) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i].Value, n.Content[i+1]
		field := of.Fields().ByJSONName(name)
		if field == nil {
			field = of.Fields().ByName(protoreflect.Name(name))
		}
		switch {
		case name == "<<":
			keepTexts(value, of)
		case field == nil: // reading it refuses it
		case field.IsMap():
			if value.Kind == yaml.MappingNode {
				for j := 1; j < len(value.Content); j += 2 {
					keepText(value.Content[j], field.MapValue())
				}
			}
		case field.IsList():
			for _, one := range value.Content {
				keepText(one, field)
			}
		default:
			keepText(value, field)
		}
	}
}

func keepText(n *yaml.Node, of protoreflect.FieldDescriptor) {
	switch {
	case of.Kind() == protoreflect.MessageKind:
		keepTexts(n, of.Message())
	case of.Kind() == protoreflect.StringKind && n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		n.Tag = "!!str"
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
