package signal

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/livekit/protocol/livekit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"parlor/rooms"
	"parlor/server/unpack"
)

// refusals are a guard's counts by reason.
func refusals(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				// Each input has its own counters, all present from the start.
				if v := m.GetCounter().GetValue(); l.GetName() == "why" && v > 0 {
					got[l.GetValue()] += v
				}
			}
		}
	}
	return got
}

// told counts the data packets that a participant gets.
type told struct {
	rooms.PeerEvents
	packets int
}

func (p *told) Data(livekit.DataPacket_Kind, []byte) { p.packets++ }

// TestDenseDataIsNotDecoded: a packet of 64 KiB may hold 30,000 values.
func TestDenseDataIsNotDecoded(t *testing.T) {
	var got told
	registry := prometheus.NewPedanticRegistry()
	guard := unpack.NewGuard()
	require.NoError(t, registry.Register(guard))
	m := measured{&got, newDecoder(guard)}

	inside := bytes.Repeat([]byte{4<<3 | 2, 0}, 30_000) // time_series of metrics
	dense, err := proto.Marshal(&livekit.DataPacket{Value: &livekit.DataPacket_Metrics{Metrics: &livekit.MetricsBatch{}}})
	require.NoError(t, err)
	dense = append(protowire.AppendVarint(dense[:len(dense)-1], uint64(len(inside))), inside...)
	var metrics livekit.DataPacket
	require.NoError(t, proto.Unmarshal(dense, &metrics))
	require.Len(t, metrics.GetMetrics().TimeSeries, 30_000)

	m.Data(livekit.DataPacket_RELIABLE, dense)
	m.Data(livekit.DataPacket_RELIABLE, bytes.Repeat([]byte{4<<3 | 2, 0}, 30_000)) // as many receivers
	m.Data(livekit.DataPacket_LOSSY, []byte{0xff})
	require.Zero(t, got.packets)
	require.Equal(t, map[string]float64{"malformed": 1, "too_much": 2}, refusals(t, registry))

	user := &livekit.DataPacket{Value: &livekit.DataPacket_User{User: &livekit.UserPacket{Payload: make([]byte, 64_000)}}}
	crowd := &livekit.DataPacket{Value: user.Value}
	for i := range 1000 {
		crowd.DestinationIdentities = append(crowd.DestinationIdentities, fmt.Sprintf("participant-%d", i))
	}
	batch := &livekit.MetricsBatch{}
	for i := range 50 {
		series := &livekit.TimeSeriesMetric{Label: uint32(i)}
		for range 20 {
			series.Samples = append(series.Samples, &livekit.MetricSample{TimestampMs: 1_700_000_000_000, NormalizedTimestamp: timestamppb.Now(), Value: 1.5})
		}
		batch.TimeSeries = append(batch.TimeSeries, series)
	}
	for i, p := range []*livekit.DataPacket{user, crowd, {Value: &livekit.DataPacket_Metrics{Metrics: batch}}} {
		b, err := proto.Marshal(p)
		require.NoError(t, err)
		m.Data(livekit.DataPacket_RELIABLE, b)
		require.Equal(t, i+1, got.packets, "what clients send is passed on")
	}
}
