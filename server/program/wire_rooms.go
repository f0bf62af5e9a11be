package program

import (
	"context"
	"log/slog"
	"time"

	"parlor/rooms"
	"parlor/rooms/sqlite"
	"parlor/server/access"
	"parlor/server/agents"
	"parlor/server/config"
	"parlor/server/signal"
	"parlor/server/unpack"
)

// openRooms opens the domain, the workers of agents, and what judges their input. node
// names this server to clients.
func (p *program) openRooms(node string) error {
	p.guard = unpack.NewGuard()
	p.registry.MustRegister(p.guard)
	p.verifier = access.NewVerifier(p.cfg.Keys)
	p.verifier.Guard = p.guard
	p.agents = agents.New(agents.Config{
		Records: p.store, Known: p.store, Grace: time.Duration(p.cfg.RestartGrace), Verifier: p.verifier, Log: p.log, Metrics: p.registry, Guard: p.guard,
		ServerInfo: signal.ServerInfo(version(), node, p.cfg.Region), MaxMessage: p.cfg.Limit.AgentSignalMessageSizeLimit,
	})
	domain := roomsConfig(p.cfg, p.store, p.log)
	domain.Elapsed, domain.Boot = elapsed()
	domain.Agents = &rooms.AgentsConfig{Workers: p.agents, Records: p.store}
	p.rooms = rooms.New(domain)
	return p.agents.Open(context.Background(), p.rooms)
}

func roomsConfig(cfg *config.Config, store *sqlite.Store, log *slog.Logger) rooms.Config {
	c := rooms.Config{
		Store: store, Moderation: store, Log: log,
		AutoCreate:         cfg.Room.AutoCreate,
		EmptyTimeout:       roomTimeout(cfg.Room.EmptyTimeout),
		DepartureTimeout:   roomTimeout(cfg.Room.DepartureTimeout),
		MaxParticipants:    cfg.Room.MaxParticipants,
		Room:               rooms.RoomConfig{SyncStreams: cfg.Room.SyncStreams, EnabledCodecs: codecs(cfg)},
		EnableRemoteUnmute: cfg.Room.EnableRemoteUnmute,
		NoDataTracks:       !cfg.EnableDataTracks,
		FullRoomInEvents:   cfg.Room.EnableFullRoomInWebhooks,
		DataBlobs:          cfg.EnableParticipantDataBlob,
		RejectDuplicates:   cfg.Room.OnDuplicateIdentity == "reject",
		Limits:             limits(cfg),
		RestartGrace:       time.Duration(cfg.RestartGrace),
	}
	if d := cfg.Room.PlayoutDelay; d.Enabled {
		c.Room.MinPlayoutDelay, c.Room.MaxPlayoutDelay = d.Min, d.Max
	}
	return c
}

func limits(cfg *config.Config) rooms.Limits {
	return rooms.Limits{
		MaxMetadata:        cfg.Limit.MaxMetadataSize,
		MaxAttributes:      cfg.Limit.MaxAttributesSize,
		MaxRoomName:        cfg.Limit.MaxRoomNameLength,
		MaxIdentity:        cfg.Limit.MaxParticipantIdentityLength,
		MaxParticipantName: cfg.Limit.MaxParticipantNameLength,
		MaxCustomEncoding:  cfg.Limit.MaxDataTrackCustomEncodingLength,
		MaxBlobKey:         cfg.Limit.MaxDataBlobKeyLength,
		MaxBlobs:           cfg.Limit.MaxDataBlobsSize,
		BlobRate:           cfg.Limit.DataBlobRate,
		SubscribedVideo:    cfg.Limit.SubscriptionLimitVideo,
		SubscribedAudio:    cfg.Limit.SubscriptionLimitAudio,
	}
}

// roomTimeout is a configured timeout in the domain's form. A configured 0 ends an empty
// room at once, but in the domain's configuration 0 would mean the default.
func roomTimeout(s config.Seconds) rooms.Timeout {
	switch s {
	case config.Never:
		return rooms.Never
	case 0:
		return 1
	}
	return rooms.Timeout(s) * 1000
}
