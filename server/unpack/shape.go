package unpack

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Memory costs of the parts of a message, in bytes.
const (
	messageCost = 48 // a message's own state, and the rounding of its allocation
	pointerCost = 16 // a place in a list of pointers that grows by doubling
	stringCost  = 48 // a string's header in a list that grows, and its allocation
	mapCost     = 96 // one entry of a map, besides its key's and value's content
)

// Shape knows the memory costs of messages of one type. It may be used concurrently.
type Shape struct {
	root    protoreflect.MessageDescriptor
	sizes   map[protoreflect.FullName]int64 // of an empty message
	largest int64                           // of sizes
}

// ShapeOf returns the shape of m's type.
func ShapeOf(m proto.Message) *Shape { return NewShape(m.ProtoReflect().Descriptor()) }

// NewShape returns the shape of the messages that root describes.
func NewShape(root protoreflect.MessageDescriptor) *Shape {
	s := &Shape{root: root, sizes: map[protoreflect.FullName]int64{}}
	s.measure(root)
	return s
}

func (s *Shape) measure(m protoreflect.MessageDescriptor) {
	if _, known := s.sizes[m.FullName()]; known {
		return
	}
	size := int64(messageCost)
	s.sizes[m.FullName()] = size // for messages that contain their own type
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		size += fieldCost(f)
		if f.Message() != nil {
			s.measure(f.Message())
		}
	}
	s.sizes[m.FullName()] = size
	s.largest = max(s.largest, size)
}

// fieldCost is the size of a field in its message.
func fieldCost(f protoreflect.FieldDescriptor) int64 {
	switch {
	case f.IsMap():
		return 8
	case f.IsList(), f.Kind() == protoreflect.BytesKind:
		return 24
	case f.Kind() == protoreflect.StringKind:
		return 16
	}
	return 8
}

// Binary estimates what b, a message in wire format, unpacks to. It fails with
// [ErrTooMuch] as soon as that exceeds most, with [ErrTooDeep], or with [ErrMalformed].
func (s *Shape) Binary(b []byte, most int64) (cost int64, err error) {
	w := walk{s, most, s.sizes[s.root.FullName()]}
	err = w.message(b, s.root, maxDepth)
	return w.cost, err
}

// JSON is [Shape.Binary] for protobuf's JSON. It does not check the syntax.
func (s *Shape) JSON(b []byte, most int64) (cost int64, err error) {
	return scanJSON(b, s.largest+pointerCost, most)
}

// walk is one pass over wire bytes.
type walk struct {
	*Shape
	most, cost int64
}

func (w *walk) add(n int64) error {
	if w.cost += n; w.cost > w.most {
		return ErrTooMuch
	}
	return nil
}

func (w *walk) message(b []byte, m protoreflect.MessageDescriptor, depth int) error {
	if depth == 0 {
		return ErrTooDeep
	}
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ErrMalformed
		}
		size := protowire.ConsumeFieldValue(number, typ, b[n:])
		if size < 0 {
			return ErrMalformed
		}
		value := b[n : n+size]
		f := m.Fields().ByNumber(number)
		var err error
		switch {
		case f == nil: // an unknown field is kept as bytes, in a list that doubles
			err = w.add(2 * int64(n+size))
		case typ == protowire.BytesType:
			inside, _ := protowire.ConsumeBytes(value) // it was consumed above
			err = w.bytes(inside, f, depth)
		case f.IsList():
			err = w.add(pointerCost)
		}
		if err != nil {
			return err
		}
		b = b[n+size:]
	}
	return nil
}

// bytes adds a length-delimited value of f.
func (w *walk) bytes(b []byte, f protoreflect.FieldDescriptor, depth int) error {
	switch {
	case f.IsMap():
		if err := w.add(mapCost); err != nil {
			return err
		}
		return w.message(b, f.Message(), depth-1)
	case f.Message() != nil:
		if err := w.add(w.sizes[f.Message().FullName()] + pointerCost); err != nil {
			return err
		}
		return w.message(b, f.Message(), depth-1)
	case f.Kind() == protoreflect.StringKind, f.Kind() == protoreflect.BytesKind:
		return w.add(stringCost + int64(len(b)))
	}
	// Packed numbers: each byte may be one.
	return w.add(pointerCost * int64(len(b)))
}
