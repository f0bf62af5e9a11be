package keyframe

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestH264(t *testing.T) {
	tests := []struct {
		name    string
		payload []byte
		want    NAL
	}{
		{"empty", nil, 0},
		{"slice", []byte{0x41, 0}, 0},
		{"IDR", []byte{0x65, 0}, Picture},
		{"SPS", []byte{0x67, 0}, ParameterSets},
		{"PPS alone", []byte{0x68, 0}, 0},
		{"STAP-A of SPS and PPS", []byte{0x78, 0, 2, 0x67, 0, 0, 1, 0x68}, ParameterSets},
		{"STAP-A of SPS, PPS and IDR", []byte{0x78, 0, 1, 0x67, 0, 1, 0x68, 0, 2, 0x65, 0}, ParameterSets | Picture},
		{"STAP-A of SEI", []byte{0x78, 0, 1, 0x06}, 0},
		{"STAP-A cut off", []byte{0x78, 0, 9, 0x67, 0}, 0},
		{"STAP-A with an empty unit", []byte{0x78, 0, 0, 0, 1, 0x67}, 0},
		{"FU-A, first of an IDR", []byte{0x7c, 0x85, 0}, Picture},
		{"FU-A, next of an IDR", []byte{0x7c, 0x05, 0}, 0},
		{"FU-A, first of a slice", []byte{0x7c, 0x81, 0}, 0},
		{"FU-A cut off", []byte{0x7c}, 0},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, H264(tt.payload), tt.name)
	}
}

func TestH265(t *testing.T) {
	tests := []struct {
		name    string
		payload []byte
		want    NAL
	}{
		{"short", []byte{0x40}, 0},
		{"slice", []byte{0x02, 1, 0}, 0},
		{"VPS", []byte{0x40, 1, 0}, ParameterSets},
		{"SPS", []byte{0x42, 1, 0}, ParameterSets},
		{"IDR", []byte{0x26, 1, 0}, Picture},
		{"CRA", []byte{0x2a, 1, 0}, Picture},
		{"AP of VPS", []byte{0x60, 1, 0, 3, 0x40, 1, 0}, ParameterSets},
		{"AP cut off", []byte{0x60, 1, 0, 9, 0x40}, 0},
		{"FU, first of an IDR", []byte{0x62, 1, 0x80 | 19, 0}, Picture},
		{"FU, next of an IDR", []byte{0x62, 1, 19, 0}, 0},
		{"FU cut off", []byte{0x62, 1}, 0},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, H265(tt.payload), tt.name)
	}
}

func TestAV1(t *testing.T) {
	tests := []struct {
		name    string
		payload []byte
		want    bool
	}{
		{"short", []byte{0x08}, false},
		{"N bit", []byte{0x18, 0x0a, 1}, true},
		{"frame OBU alone", []byte{0x10, 0x32, 1}, false},
		{"sequence header alone", []byte{0x10, 0x0a, 1}, true},
		{"sequence header second, W=2", []byte{0x20, 2, 0x32, 1, 0x0a, 1}, true},
		{"sequence header second, W=0", []byte{0x00, 2, 0x32, 1, 2, 0x0a, 1}, true},
		{"continued fragment that looks like one", []byte{0x90, 0x0a, 1}, false},
		{"size beyond the end", []byte{0x20, 9, 0x32, 1}, false},
		{"size that never ends", []byte{0x00, 0x80, 0x80, 0x80, 0x80, 0x80}, false},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, AV1(tt.payload), tt.name)
	}
}

func FuzzAll(f *testing.F) {
	f.Add([]byte{0x78, 0, 1, 0x67, 0, 1, 0x68, 0, 2, 0x65, 0})
	f.Add([]byte{0x60, 1, 0, 3, 0x40, 1, 0})
	f.Add([]byte{0x00, 2, 0x32, 1, 2, 0x0a, 1})
	f.Fuzz(func(_ *testing.T, b []byte) { // there must be no panic
		H264(b)
		H265(b)
		AV1(b)
	})
}
