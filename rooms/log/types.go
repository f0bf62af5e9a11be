package log

import "slices"

// The types of events that LiveKit sends, by its names.
const (
	RoomStarted        = "room_started"
	RoomFinished       = "room_finished"
	ParticipantJoined  = "participant_joined"
	ParticipantLeft    = "participant_left"
	ParticipantAborted = "participant_connection_aborted"
	TrackPublished     = "track_published"
	TrackUnpublished   = "track_unpublished"
)

// The types that LiveKit does not send.
const (
	RoomUpdated        = "room_updated"
	ParticipantUpdated = "participant_updated"
	ParticipantResumed = "participant_resumed"
	TrackMuted         = "track_muted"
	TrackUnmuted       = "track_unmuted"
	JobPending         = "agent_job_pending"
	JobStarted         = "agent_job_started"
	JobEnded           = "agent_job_ended"
	WebhookTest        = "webhook_test"
)

// Type is all that is to be known of the events of one type.
type Type struct {
	Name string
	// For says which endpoints get them.
	For Audience
	// Holds is what their bodies have beside id, event and createdAt.
	Holds Body
	// Doc is when one is written.
	Doc string
}

// Audience is which endpoints get events of a type.
type Audience int

// The audiences.
const (
	// Everybody: endpoints get them unless their filter leaves them out. LiveKit sends
	// these too.
	Everybody Audience = iota
	// Askers: endpoints get them only if their filter names them, or all, so that
	// receivers written for LiveKit see nothing new.
	Askers
	// One: the endpoint that is tested gets it, whatever its filter.
	One
)

// Body is which parts of LiveKit's WebhookEvent an event has.
type Body struct {
	Room, Participant Part
	Track             bool
	Job               bool
	EndReason         bool // room_end_reason
}

// Part is how much of a room or participant an event has.
type Part int

// The parts.
const (
	Absent Part = iota
	Named       // sid, and name or identity
	Whole       // as of then
)

// types is the table; it is never changed.
var types = []Type{
	{RoomStarted, Everybody, Body{Room: Whole}, "a room is opened: its first event"},
	{RoomFinished, Everybody, Body{Room: Whole, EndReason: true}, "a room ends: its last event"},
	{ParticipantJoined, Everybody, Body{Room: Whole, Participant: Whole}, "a participant's media is connected for the first time"},
	{ParticipantLeft, Everybody, Body{Room: Whole, Participant: Whole}, "a participant that had joined is gone"},
	{ParticipantAborted, Everybody, Body{Room: Whole, Participant: Whole}, "a participant is gone whose media was never connected"},
	{TrackPublished, Everybody, Body{Room: Named, Participant: Named, Track: true}, "a participant publishes a track"},
	{TrackUnpublished, Everybody, Body{Room: Named, Participant: Named, Track: true}, "a participant's track ends"},
	{RoomUpdated, Askers, Body{Room: Whole}, "a room's metadata, timeouts, limits or settings change"},
	{ParticipantUpdated, Askers, Body{Room: Whole, Participant: Whole}, "a participant's name, metadata, attributes or permission change"},
	{ParticipantResumed, Askers, Body{Room: Whole, Participant: Whole}, "a participant is back after a restart of the server"},
	{TrackMuted, Askers, Body{Room: Named, Participant: Named, Track: true}, "a track is muted"},
	{TrackUnmuted, Askers, Body{Room: Named, Participant: Named, Track: true}, "a track is unmuted"},
	{JobPending, Askers, Body{Room: Whole, Job: true}, "every worker of agents refused a job"},
	{JobStarted, Askers, Body{Room: Whole, Job: true}, "a worker takes the job of an agent"},
	{JobEnded, Askers, Body{Room: Whole, Job: true}, "the job of an agent is over"},
	{WebhookTest, One, Body{}, "an operator tests an endpoint"},
}

// Types is every type of events, those that LiveKit sends first.
func Types() []Type { return slices.Clone(types) }

// Names are the types that a filter can name, in the order of [Types].
func Names() []string {
	var names []string
	for _, t := range types {
		if t.For != One {
			names = append(names, t.Name)
		}
	}
	return names
}

// isFor reports whether events of the type of that name are for that audience.
func isFor(name string, a Audience) bool {
	return slices.ContainsFunc(types, func(t Type) bool { return t.Name == name && t.For == a })
}
