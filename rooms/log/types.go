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
	HostAdded          = "host_added"
	HostRemoved        = "host_removed"
	TrackMuted         = "track_muted"
	TrackUnmuted       = "track_unmuted"
	JobPending         = "agent_job_pending"
	JobStarted         = "agent_job_started"
	JobEnded           = "agent_job_ended"
	WebhookTest        = "webhook_test"
)

// Type describes the events of one type.
type Type struct {
	Name string
	// For tells which endpoints get them.
	For Audience
	// Holds tells what their bodies have besides id, event and createdAt.
	Holds Body
	// Doc says when such an event is written.
	Doc string
}

// Audience tells which endpoints get events of a type.
type Audience int

// The audiences.
const (
	// Everybody: all endpoints get them, except those whose filters exclude them. LiveKit
	// sends these types too.
	Everybody Audience = iota
	// Askers: only endpoints whose filters name the type, or all types, get them, so that
	// receivers written for LiveKit see nothing new.
	Askers
	// One: only the endpoint that is tested gets it, whatever its filter.
	One
)

// Body tells which parts of LiveKit's WebhookEvent an event has.
type Body struct {
	Room, Participant Part
	Track             bool
	Job               bool
	EndReason         bool // room_end_reason
}

// Part tells how much of a room or participant an event has.
type Part int

// The parts.
const (
	Absent Part = iota
	Named       // sid, and name or identity
	Whole       // as of then
)

// types is the table of all event types. It is never changed.
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
	{HostAdded, Askers, Body{Room: Named, Participant: Named}, "a participant is made host of its room"},
	{HostRemoved, Askers, Body{Room: Named, Participant: Named}, "a participant is host no more"},
	{TrackMuted, Askers, Body{Room: Named, Participant: Named, Track: true}, "a track is muted"},
	{TrackUnmuted, Askers, Body{Room: Named, Participant: Named, Track: true}, "a track is unmuted"},
	{JobPending, Askers, Body{Room: Whole, Job: true}, "every worker of agents refused a job"},
	{JobStarted, Askers, Body{Room: Whole, Job: true}, "a worker takes the job of an agent"},
	{JobEnded, Askers, Body{Room: Whole, Job: true}, "the job of an agent is over"},
	{WebhookTest, One, Body{}, "an operator tests an endpoint"},
}

// Types returns every event type, those that LiveKit sends first.
func Types() []Type { return slices.Clone(types) }

// Names returns the types that a filter can name, in the order of [Types].
func Names() []string {
	var names []string
	for _, t := range types {
		if t.For != One {
			names = append(names, t.Name)
		}
	}
	return names
}

// IsType reports whether there are events of that type.
func IsType(name string) bool {
	return slices.ContainsFunc(types, func(t Type) bool { return t.Name == name })
}

// isFor reports whether events of that type are for that audience.
func isFor(name string, a Audience) bool {
	return slices.ContainsFunc(types, func(t Type) bool { return t.Name == name && t.For == a })
}
