package protoyaml

import (
	"math"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestAMessageIsReadFromYAML(t *testing.T) {
	for _, c := range []struct {
		text string
		want proto.Message
	}{
		{"name: title\njson_name: \"yes\"\nnumber: 7\ntype: TYPE_STRING\noptions: {deprecated: true}\n", field()},
		{"{name: title, jsonName: 'yes', number: 7, type: 9, options: {deprecated: true, lazy: null}}", field()},
		{"{name: 2026-01-31, jsonName: 2026-01-31T12:00:00Z}", &descriptorpb.FieldDescriptorProto{Name: proto.String("2026-01-31"), JsonName: proto.String("2026-01-31T12:00:00Z")}},
		{"{name: 0x10, json_name: true, options: {lazy: true}}", &descriptorpb.FieldDescriptorProto{
			Name: proto.String("0x10"), JsonName: proto.String("true"), Options: &descriptorpb.FieldOptions{Lazy: proto.Bool(true)},
		}},
		{"name: [{<<: {name_part: 5, is_extension: false}}]", &descriptorpb.UninterpretedOption{Name: []*descriptorpb.UninterpretedOption_NamePart{{NamePart: proto.String("5"), IsExtension: proto.Bool(false)}}}},
		{"{dependency: [1, two], publicDependency: [3]}", &descriptorpb.FileDescriptorProto{Dependency: []string{"1", "two"}, PublicDependency: []int32{3}}},
		{"1.5s", durationpb.New(1.5e9)},
		{"", &descriptorpb.FieldDescriptorProto{}},
	} {
		got := c.want.ProtoReflect().New().Interface()
		if err := Unmarshal([]byte(c.text), got); err != nil {
			t.Errorf("%q: %v", c.text, err)
		} else if !proto.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
}

func TestYAMLThatIsNoMessageIsRefused(t *testing.T) {
	for _, text := range []string{"nonsense: 1", "number: many", "- 1", "{", "number: .inf", "1: 2", "type: TYPE_NONE"} {
		if err := Unmarshal([]byte(text), &descriptorpb.FieldDescriptorProto{}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestAMessageIsWrittenAsYAML(t *testing.T) {
	for names, want := range map[bool]string{true: "json_name: \"yes\"\n", false: "jsonName: \"yes\"\n"} {
		got, err := MarshalOptions{UseProtoNames: names}.Marshal(&descriptorpb.FieldDescriptorProto{JsonName: proto.String("yes")})
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	large := &descriptorpb.UninterpretedOption{PositiveIntValue: proto.Uint64(math.MaxUint64), NegativeIntValue: proto.Int64(math.MinInt64)}
	text, err := MarshalOptions{}.Marshal(large)
	if err != nil {
		t.Fatal(err)
	}
	got := &descriptorpb.UninterpretedOption{}
	if err := Unmarshal(text, got); err != nil || !proto.Equal(got, large) {
		t.Errorf("%q was read as %v, %v", text, got, err)
	}
}

func field() *descriptorpb.FieldDescriptorProto {
	return &descriptorpb.FieldDescriptorProto{
		Name: proto.String("title"), JsonName: proto.String("yes"), Number: proto.Int32(7),
		Type:    descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
		Options: &descriptorpb.FieldOptions{Deprecated: proto.Bool(true)},
	}
}
