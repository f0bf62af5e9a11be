package dd_test

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"parlor/media/forward/dd"
	"parlor/media/forward/dd/ddtest"
)

func TestParseStructure(t *testing.T) {
	s := ddtest.L2T2Key()
	var key dd.Frame
	require.NoError(t, key.Parse(s.Encode(ddtest.Frame{Start: true, Template: 0, Number: 7, Structure: true, Active: -1}), nil))
	require.True(t, key.Start)
	require.False(t, key.End)
	require.True(t, key.NewStructure)
	require.Equal(t, uint16(7), key.Number)
	require.Equal(t, uint32(0b1111), key.Active)
	require.False(t, key.HasActive)
	require.Equal(t, []dd.Target{{0, 0, 0}, {0, 1, 0}, {1, 0, 1}, {1, 1, 1}}, key.Structure.Targets)
	require.Equal(t, []dd.Resolution{{320, 180}, {640, 360}}, key.Structure.Resolutions)
	require.Equal(t, 2, key.Structure.Chains)

	var f dd.Frame
	require.NoError(t, f.Parse(s.Encode(ddtest.Frame{End: true, Template: 5, Number: 65535, Active: -1}), key.Structure))
	require.Equal(t, uint8(1), f.Spatial)
	require.Equal(t, uint8(1), f.Temporal)
	require.Equal(t, []dd.Indication{dd.NotPresent, dd.NotPresent, dd.NotPresent, dd.Discardable}, f.Indications[:4])
	require.Equal(t, []uint8{3, 2}, f.ChainDiffs[:2])
	require.ErrorIs(t, f.Parse(s.Encode(ddtest.Frame{Template: 5, Active: -1}), nil), dd.ErrNoStructure)
	require.ErrorIs(t, f.Parse(s.Encode(ddtest.Frame{Template: 6, Active: -1}), key.Structure), dd.ErrInvalid)
	require.ErrorIs(t, f.Parse([]byte{1, 2}, key.Structure), dd.ErrShort)
}

func TestParseCustom(t *testing.T) {
	s := ddtest.L2T2Key()
	var key, f dd.Frame
	require.NoError(t, key.Parse(s.Encode(ddtest.Frame{Structure: true, Active: -1}), nil))
	require.NoError(t, f.Parse(s.Encode(ddtest.Frame{
		Template: 1, Active: 0b0011, Targets: "DR-S", Diffs: []int{1, 300}, Chains: []int{200, 9},
	}), key.Structure))
	require.True(t, f.HasActive)
	require.Equal(t, uint32(3), f.Active)
	require.Equal(t, []dd.Indication{dd.Discardable, dd.Required, dd.NotPresent, dd.Switch}, f.Indications[:4])
	require.Equal(t, []uint8{200, 9}, f.ChainDiffs[:2])
}

func TestChoose(t *testing.T) {
	var f dd.Frame
	require.NoError(t, f.Parse(ddtest.L2T2Key().Encode(ddtest.Frame{Structure: true, Active: -1}), nil))
	s := f.Structure
	require.Equal(t, 3, s.Choose(255, 255, 0b1111))
	require.Equal(t, 2, s.Choose(255, 0, 0b1111))
	require.Equal(t, 1, s.Choose(0, 255, 0b1111))
	require.Equal(t, 1, s.Choose(255, 255, 0b0011), "the upper layer is not sent")
	require.Equal(t, -1, s.Choose(0, 255, 0b1100))
	require.Equal(t, 2, s.Lowest(0b1100))
	require.Equal(t, uint32(0b0101), s.Within(1, 0))
}

func TestAppendActive(t *testing.T) {
	s := ddtest.L2T2Key()
	var key dd.Frame
	require.NoError(t, key.Parse(s.Encode(ddtest.Frame{Structure: true, Active: -1}), nil))
	for name, f := range map[string]ddtest.Frame{
		"mandatory alone":  {Start: true, Template: 2, Number: 9, Active: -1},
		"with a structure": {Start: true, End: true, Template: 0, Number: 9, Structure: true, Active: -1},
		"with a mask":      {Template: 4, Number: 9, Active: 0b1111},
		"with everything":  {Template: 4, Structure: true, Active: 1, Targets: "DR-S", Diffs: []int{1, 300}, Chains: []int{200, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := s.Encode(f)
			var before, after dd.Frame
			require.NoError(t, before.Parse(raw, key.Structure))
			f.Active = 0b0110
			require.NoError(t, after.Parse(before.AppendActive([]byte{}, raw, 0b0110), key.Structure))
			require.True(t, after.HasActive)
			require.Equal(t, uint32(0b0110), after.Active)
			require.Equal(t, before.Indications, after.Indications)
			require.Equal(t, before.ChainDiffs, after.ChainDiffs)
			require.Equal(t, before.Number, after.Number)
			require.Equal(t, before.Structure.Targets, after.Structure.Targets)
		})
	}
}

// TestAStructureCostsLittleMoreThanItsBytes: any packet may carry one.
func TestAStructureCostsLittleMoreThanItsBytes(t *testing.T) {
	const templates, targets = 64, 32
	for name, tc := range map[string]struct {
		targets, layers, rest int // bits after the layers
		err                   error
	}{
		"many templates":           {1, templates, templates*3 + 4, nil},
		"of many targets":          {targets, templates / 2, templates/2*(2*targets+1) + 8, nil},
		"that never end":           {1, 2 * templates, 0, dd.ErrInvalid},
		"of which nothing is told": {targets, templates, 100, dd.ErrShort},
	} {
		t.Run(name, func(t *testing.T) {
			bits := "10000" + "000000" + fmt.Sprintf("%05b", tc.targets-1) +
				strings.Repeat("00", tc.layers-1) + "11" + strings.Repeat("0", tc.rest)
			raw := make([]byte, 3, 512)
			for bits += "0000000"; len(bits) >= 8; bits = bits[8:] {
				b, err := strconv.ParseUint(bits[:8], 2, 8)
				require.NoError(t, err)
				raw = append(raw, byte(b))
			}
			const times = 1000
			var f dd.Frame
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range times {
				require.ErrorIs(t, f.Parse(raw, nil), tc.err)
			}
			runtime.ReadMemStats(&after)
			require.Less(t, (after.TotalAlloc-before.TotalAlloc)/times, uint64(20*len(raw)), "of %d bytes", len(raw))
		})
	}
}

// A parsed descriptor can be written with another mask, and is parsed to the same values.
func FuzzParse(f *testing.F) {
	s := ddtest.L2T2Key()
	f.Add(s.Encode(ddtest.Frame{Structure: true, Active: -1}), []byte{0, 0, 0}, uint32(1))
	f.Add(s.Encode(ddtest.Frame{Template: 4, Structure: true, Active: 1, Targets: "DR-S", Diffs: []int{1, 300}, Chains: []int{200, 9}}), s.Encode(ddtest.Frame{Template: 5, Active: 3}), uint32(9))
	f.Fuzz(func(t *testing.T, key, delta []byte, mask uint32) {
		var first, second dd.Frame
		if first.Parse(key, nil) != nil {
			return
		}
		require.LessOrEqual(t, len(first.Structure.Targets), dd.MaxTargets)
		check(t, &first, key, mask)
		if second.Parse(delta, first.Structure) == nil {
			check(t, &second, delta, mask)
		}
	})
}

func check(t *testing.T, f *dd.Frame, raw []byte, mask uint32) {
	mask &= uint32(1<<len(f.Structure.Targets) - 1)
	var again dd.Frame
	require.NoError(t, again.Parse(f.AppendActive(nil, raw, mask), f.Structure))
	require.Equal(t, mask, again.Active)
	require.Equal(t, f.Indications, again.Indications)
	require.Equal(t, f.ChainDiffs, again.ChainDiffs)
	require.Equal(t, f.Structure.Targets, again.Structure.Targets)
}

// A shift changes only the numbers, and the result can be parsed with the structure that
// was shifted in the same way.
func TestShift(t *testing.T) {
	s := ddtest.L2T2Key()
	var before, after, delta dd.Frame
	raw := s.Encode(ddtest.Frame{Start: true, Number: 65535, Structure: true, Active: 5, Chains: []int{7, 9}})
	require.NoError(t, before.Parse(raw, nil))
	shift := dd.Shift{Number: 3, Template: 61}
	shift.Apply(raw)
	require.NoError(t, after.Parse(raw, nil))
	require.Equal(t, uint16(2), after.Number)
	first, count := after.Structure.IDs()
	require.Equal(t, uint8((60+61)%64), first)
	require.Equal(t, 6, count)
	require.Equal(t, before.Indications, after.Indications)
	require.Equal(t, before.ChainDiffs, after.ChainDiffs)
	require.Equal(t, before.Structure.Targets, after.Structure.Targets)
	require.Equal(t, before.Structure.Resolutions, after.Structure.Resolutions)
	require.Equal(t, before.Active, after.Active)

	raw = s.Encode(ddtest.Frame{End: true, Template: 5, Number: 65535, Active: -1})
	shift.Apply(raw)
	require.NoError(t, delta.Parse(raw, after.Structure))
	require.Equal(t, uint16(2), delta.Number)
	require.Equal(t, uint8(1), delta.Spatial)
	require.Equal(t, []uint8{3, 2}, delta.ChainDiffs[:2])
	shift.Apply(raw[:2]) // too short for a frame number
}
