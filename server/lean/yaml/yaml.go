// Package yaml gives the names of gopkg.in/yaml.v3, which is no longer looked after, to its
// successor, which the configuration is read with. Both have the same interface; the binary
// has one of them.
package yaml

import "go.yaml.in/yaml/v3"

type (
	Decoder     = yaml.Decoder
	Encoder     = yaml.Encoder
	IsZeroer    = yaml.IsZeroer
	Kind        = yaml.Kind
	Marshaler   = yaml.Marshaler
	Node        = yaml.Node
	Style       = yaml.Style
	TypeError   = yaml.TypeError
	Unmarshaler = yaml.Unmarshaler
)

const (
	DocumentNode = yaml.DocumentNode
	SequenceNode = yaml.SequenceNode
	MappingNode  = yaml.MappingNode
	ScalarNode   = yaml.ScalarNode
	AliasNode    = yaml.AliasNode

	TaggedStyle       = yaml.TaggedStyle
	DoubleQuotedStyle = yaml.DoubleQuotedStyle
	SingleQuotedStyle = yaml.SingleQuotedStyle
	LiteralStyle      = yaml.LiteralStyle
	FoldedStyle       = yaml.FoldedStyle
	FlowStyle         = yaml.FlowStyle
)

var (
	Marshal    = yaml.Marshal
	NewDecoder = yaml.NewDecoder
	NewEncoder = yaml.NewEncoder
	Unmarshal  = yaml.Unmarshal
)
