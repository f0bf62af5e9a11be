package api

import (
	"net/http"
	"strings"

	"parlor/rooms/log"
	"parlor/server/access"
	"parlor/server/events"
)

const (
	get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete

	onRoom        = "/rooms/{name}"
	onParticipant = onRoom + "/participants/{identity}"
	onWebhook     = "/webhooks/{id}"
)

func pageParameters(more ...parameter) []parameter {
	return append([]parameter{
		{name: "limit", doc: "Items in a page, 1 to 500; 100 without it.", number: true},
		{name: "cursor", doc: "The next_cursor of the page before."},
	}, more...)
}

// operations returns every operation of REST. The OpenAPI document is made from it.
func (s *rest) operations() []operation {
	var all []operation
	for _, part := range [][]operation{s.roomOperations(), s.participantOperations(), s.moderationOperations(), s.breakoutOperations(), s.invitationOperations(), s.lobbyOperations(), s.agentOperations()} {
		for _, op := range part {
			if op.method != get && op.role == access.NoRole {
				op.role = access.Moderate
			}
			all = append(all, op)
		}
	}
	for _, part := range [][]operation{s.eventOperations(), s.webhookOperations(), s.dashboardOperations(), s.machineOperations()} {
		all = append(all, part...)
	}
	return all
}

func (s *rest) roomOperations() []operation {
	const tag = "rooms"
	return []operation{
		{
			method: post, path: "/rooms", id: "createRoom", tag: tag, grant: toCreate,
			summary: "Open a room. If one of that name is open it is returned as it is, with 200.",
			body:    createRequest{}, size: bodySize{metadata: true, attributes: true}, example: `{"name":"board","empty_timeout":"never","departure_timeout":"never","max_participants":12,"metadata":"weekly","tags":{"team":"red"}}`,
			status: http.StatusCreated, alsoOK: true, answer: room{}, handle: s.createRoom,
		},
		{
			method: get, path: "/rooms", id: "listRooms", tag: tag, grant: toList,
			summary: "List rooms, open or ended, in pages that do not shift while rooms come and go.",
			query:   roomParameters(), status: http.StatusOK, answer: roomPage{}, handle: s.listRooms,
		},
		{
			method: get, path: onRoom, id: "getRoom", tag: tag, grant: toSee,
			summary: "The open room of that name, with its ETag.",
			status:  http.StatusOK, answer: room{}, handle: s.getRoom,
		},
		{
			method: patch, path: onRoom, id: "updateRoom", tag: tag, grant: toAdmin,
			summary: "Change an open room; everybody in it is told. If-Match makes it conditional.",
			body:    editRequest{}, size: bodySize{metadata: true, attributes: true}, example: `{"metadata":"agenda","departure_timeout":600,"locked":true}`,
			status: http.StatusOK, answer: room{}, conditional: true, handle: s.editRoom,
		},
		{
			method: del, path: onRoom, id: "closeRoom", tag: tag, grant: toCreate,
			summary: "Close a room: everybody in it is sent away, its name is free. If-Match makes it conditional.",
			status:  http.StatusNoContent, conditional: true, handle: s.deleteRoom,
		},
		{
			method: post, path: onRoom + "/data", id: "sendData", tag: tag, grant: toAdmin,
			summary: "Send data to participants; 413 if it is longer, with topic and to, than the 65535 bytes that a client receives at once.",
			body:    dataRequest{}, size: bodySize{base: listBody}, example: `{"text":"five minutes left","topic":"chat","to":["ada"]}`,
			status: http.StatusNoContent, handle: s.sendData,
		},
		{
			method: get, path: onRoom + "/chat", id: "getChat", tag: tag, grant: s.toRead(),
			summary: "What a room with keep_chat keeps of its chat: its newest public messages, 200 and 256 KiB at most, each up to 16 KiB. Messages to some alone, encrypted ones and files are not kept.",
			status:  http.StatusOK, answer: chat{}, handle: s.getChat,
		},
		{
			method: del, path: onRoom + "/chat/{identity}/{id}", id: "deleteChatMessage", tag: tag, grant: toAdmin,
			summary: "Delete a message that the room keeps, by its sender and its id. Clients get data on the topic parlor.chat that names it; the page shows it no more.",
			status:  http.StatusNoContent, handle: s.deleteChat,
		},
		{
			method: get, path: "/history/{sid}", id: "getRoomBySid", tag: tag, grant: toList,
			summary: "A room by its id, open or ended, with why it ended.",
			status:  http.StatusOK, answer: room{}, handle: s.getHistory,
		},
		{
			method: get, path: "/history/{sid}/sessions", id: "listSessions", tag: tag, grant: s.toRecall(),
			summary: "Who was in a room, or is, in the order of joining.",
			query:   pageParameters(), status: http.StatusOK, answer: sessionPage{}, handle: s.listSessions,
		},
		{
			method: get, path: "/history/hours", id: "listHours", tag: tag, grant: toOperate,
			summary: "What happened in each hour or day of UTC: rooms, joins, participants, refusals, media. Kept for 400 days; the newest is not over yet.",
			query: pageParameters(
				parameter{name: "from", doc: "From the hour or day of this time on (RFC 3339); 30 days ago without it."},
				parameter{name: "before", doc: "Those that begin before this time (RFC 3339)."},
				parameter{name: "by", doc: "hour without it.", values: []string{"hour", "day"}},
			),
			status: http.StatusOK, answer: hourPage{}, handle: s.listHours,
		},
	}
}

func (s *rest) participantOperations() []operation {
	const tag = "participants"
	return []operation{
		{
			method: get, path: "/participants", id: "findParticipants", tag: tag, grant: toOperate,
			summary: "The participants of all open rooms, by the rooms' ids and by identity. Hidden ones, and those that are expected back after a restart, belong to them.",
			query:   pageParameters(parameter{name: "text", doc: "Participants whose identity or name contains this, in upper or lower case, or whose client's address begins with it. A page looks at 2000 of them at most: it may hold fewer than limit, or none, and still have a next_cursor."}),
			status:  http.StatusOK, answer: presencePage{}, handle: s.findParticipants,
		},
		{
			method: get, path: onRoom + "/participants", id: "listParticipants", tag: tag, grant: toAdmin,
			summary: "Who is in a room.",
			status:  http.StatusOK, answer: participantList{}, handle: s.listParticipants,
		},
		{
			method: get, path: onRoom + "/stats", id: "getRoomStats", tag: tag, grant: toAdmin,
			summary: "How media fares: of each participant its connection's quality, what comes of its tracks, how the path to it fares, and what goes out over it, with why it is less than wanted. By identity; a page is short where participants have many subscriptions.",
			query:   pageParameters(parameter{name: "identity", doc: "Only this participant."}),
			status:  http.StatusOK, answer: roomStats{}, handle: s.getRoomStats,
		},
		{
			method: get, path: onParticipant + "/samples", id: "getSamples", tag: tag, grant: toAdmin,
			summary: "How a participant's media fared in the last quarter of an hour: a sample for every ten seconds or so. They begin when its media connects, and again after a restart of the server and when it is moved to another room.",
			status:  http.StatusOK, answer: sampleList{}, handle: s.getSamples,
		},
		{
			method: get, path: onParticipant, id: "getParticipant", tag: tag, grant: toAdmin,
			summary: "One participant.",
			status:  http.StatusOK, answer: participant{}, handle: s.getParticipant,
		},
		{
			method: patch, path: onParticipant, id: "updateParticipant", tag: tag, grant: toAdmin,
			summary: "Change what a participant is and may do. It holds also when it rejoins.",
			body:    participantEdit{}, size: bodySize{metadata: true, attributes: true}, example: `{"name":"Ada","attributes":{"hand":"up"},"permissions":{"can_publish":true,"can_publish_sources":["microphone"]}}`,
			status: http.StatusOK, answer: participant{}, conditional: true, handle: s.editParticipant,
		},
		{
			method: del, path: onParticipant, id: "removeParticipant", tag: tag, grant: toAdmin,
			summary: "Send a participant away.",
			query:   []parameter{{name: "revoke", doc: "true: its tokens are worthless from now on, in this API too, and 204 is the answer also if it is not in the room.", values: []string{"true", "false"}}},
			status:  http.StatusNoContent, handle: s.removeParticipant,
		},
		{
			method: put, path: onParticipant + "/host", id: "makeHost", tag: tag, grant: toAdmin,
			summary: "Make a participant host: it may run the room as one whose token has roomAdmin. It holds until the room ends, also when it rejoins, whatever its tokens say. 404 unless it is in the room or was lately.",
			status:  http.StatusNoContent, handle: s.makeHost,
		},
		{
			method: del, path: onParticipant + "/host", id: "unmakeHost", tag: tag, grant: toAdmin,
			summary: "Make a participant host no more: its tokens, also those that have roomAdmin, neither run the room nor create or close rooms in this API. It holds until the room ends, or it is made host again.",
			status:  http.StatusNoContent, handle: s.unmakeHost,
		},
		{
			method: post, path: onParticipant + "/move", id: "moveParticipant", tag: tag, grant: toAdmin,
			summary: "Move a participant to another room, with its tracks and without a reconnect; 409 (code room_full) if it is full. The token needs destinationRoom.",
			body:    destination{}, example: `{"room":"breakout-1"}`,
			status: http.StatusNoContent, handle: s.moveParticipant,
		},
		{
			method: post, path: onParticipant + "/forward", id: "forwardParticipant", tag: tag, grant: toAdmin,
			summary: "Show a participant and its tracks in a second room too; 409 (code room_full) if it is full. The token needs destinationRoom.",
			body:    destination{}, example: `{"room":"overflow"}`,
			status: http.StatusNoContent, handle: s.forwardParticipant,
		},
		{
			method: post, path: onParticipant + "/rpc", id: "callParticipant", tag: tag, grant: toAdmin,
			summary: "Call a method that a participant's client offers, and wait for its answer.",
			body:    rpcRequest{}, size: bodySize{base: listBody}, example: `{"method":"raise-hand","payload":"{}","timeout":5}`,
			status: http.StatusOK, answer: rpcAnswer{}, handle: s.performRPC,
		},
		{
			method: get, path: onParticipant + "/tracks", id: "listTracks", tag: tag, grant: toAdmin,
			summary: "What a participant publishes.",
			status:  http.StatusOK, answer: trackList{}, handle: s.listTracks,
		},
		{
			method: patch, path: onParticipant + "/tracks/{track}", id: "updateTrack", tag: tag, grant: toAdmin,
			summary: "Mute a track, or unmute it where the configuration allows that.",
			body:    trackEdit{}, example: `{"muted":true}`,
			status: http.StatusOK, answer: track{}, handle: s.editTrack,
		},
		{
			method: put, path: onParticipant + "/subscriptions/{track}", id: "subscribe", tag: tag, grant: toAdmin,
			summary: "Subscribe a participant to a track. An unknown track is no error.",
			status:  http.StatusNoContent, handle: s.subscribe,
		},
		{
			method: del, path: onParticipant + "/subscriptions/{track}", id: "unsubscribe", tag: tag, grant: toAdmin,
			summary: "End a participant's subscription to a track.",
			status:  http.StatusNoContent, handle: s.unsubscribe,
		},
	}
}

func (s *rest) moderationOperations() []operation {
	return []operation{
		{
			method: post, path: onRoom + "/mute", id: "muteRoom", tag: "moderation", grant: toAdmin,
			summary: "Mute everybody in a room, and, with hold, keep it so.",
			body:    muteRequest{}, size: bodySize{base: listBody}, optional: true, example: `{"sources":["microphone"],"except":["host"],"hold":true}`,
			status: http.StatusOK, answer: mutedTracks{}, handle: s.muteRoom,
		},
		{
			method: del, path: onRoom + "/mute", id: "releaseRoom", tag: "moderation", grant: toAdmin,
			summary: "Release what is held muted: everybody may unmute what is its own.",
			status:  http.StatusNoContent, handle: s.releaseRoom,
		},
		{
			method: get, path: onRoom + "/bans", id: "listBans", tag: "moderation", grant: toAdmin,
			summary: "Who is banned from rooms of that name, by identity. The room need not be open.",
			query:   pageParameters(), status: http.StatusOK, answer: banPage{}, handle: s.listBans,
		},
		{
			method: put, path: onRoom + "/bans/{identity}", id: "ban", tag: "moderation", grant: toAdmin,
			summary: "Ban an identity from rooms of that name, and send it away if it is there. Its tokens for them are refused here too.",
			body:    banRequest{}, optional: true, example: `{"until":"2030-01-31T12:00:00Z","reason":"spam"}`,
			status: http.StatusOK, answer: ban{}, handle: s.ban,
		},
		{
			method: del, path: onRoom + "/bans/{identity}", id: "unban", tag: "moderation", grant: toAdmin,
			summary: "Lift a ban.",
			status:  http.StatusNoContent, handle: s.unban,
		},
		{
			method: get, path: onRoom + "/revocations", id: "listRevocations", tag: "moderation", grant: toAdmin,
			summary: "Whose tokens are refused for rooms of that name, and from before when, by identity. The room need not be open.",
			query:   pageParameters(), status: http.StatusOK, answer: revocationPage{}, handle: s.listRevocations,
		},
		{
			method: post, path: onRoom + "/revocations", id: "revokeTokens", tag: "moderation", grant: toAdmin,
			summary: "Refuse the tokens that an identity has for rooms of that name, to join and in this API. Who is in the room stays. Tokens tell whole seconds: one made in the same second is refused too.",
			body:    revocation{}, example: `{"identity":"ada"}`,
			status: http.StatusNoContent, handle: s.revoke,
		},
		{
			method: del, path: onRoom + "/revocations/{identity}", id: "liftRevocation", tag: "moderation", grant: toAdmin,
			summary: "Lift a revocation: tokens that were refused for it are good again until they expire.",
			status:  http.StatusNoContent, handle: s.liftRevocation,
		},
		{
			method: post, path: "/tokens", id: "createToken", tag: "tokens", grant: toOperate, role: access.All,
			summary: "Make an access token, signed with the API key of the request.",
			body:    tokenRequest{}, size: bodySize{metadata: true, attributes: true}, example: `{"identity":"ada","room":"board","name":"Ada","ttl":3600,"can_publish":true,"room_config":{"empty_timeout":"never"}}`,
			status: http.StatusCreated, answer: token{}, secret: true, handle: s.mintToken,
		},
	}
}

// eventTypes describes when events of each type are written.
func eventTypes() string {
	var all []string
	for _, t := range log.Types() {
		all = append(all, t.Name+": "+t.Doc)
	}
	return strings.Join(all, "; ") + "."
}

func (s *rest) eventOperations() []operation {
	return []operation{
		{
			method: get, path: "/events", id: "listEvents", tag: "events", grant: toPull,
			summary: "The event log: a page as JSON, or as server-sent events for a client that accepts text/event-stream. " +
				"410 (code pruned, with the oldest seq) when what is asked for is pruned; 429 (code too_many_streams) when " +
				"the API key has its share of the streams. A stream ends with an event gone, whose data is a problem, when it falls behind " +
				"the pruning, and when its token expires, is revoked or its identity is banned.",
			query: []parameter{
				{name: "after", doc: "A page's cursor, or a seq: events after it; latest: those yet to come. Without it all that are left. Last-Event-ID goes before it."},
				{name: "before", doc: "Backwards, the newest first: the events before this seq; latest: from the end of the log. The answer has in next what to ask before for older ones. Not with after, and not as a stream."},
				{name: "limit", doc: "Events in a page, 1 to 1000; 100 without it.", number: true},
				{name: "room", doc: "A room's id, or a name: all rooms that bore it."},
				{name: "type", doc: "Types of events, separated by commas or given several times. " + eventTypes(), many: true},
			},
			status: http.StatusOK, answer: events.Page{}, stream: true, handle: s.pullEvents,
		},
		{
			method: get, path: "/status", id: "getStatus", tag: "status", grant: toList,
			summary: "How the server fares: rooms, database, replication, certificate, webhooks.",
			status:  http.StatusOK, answer: status{}, handle: s.getStatus,
		},
		{
			method: get, path: "/status/check", id: "check", tag: "status", grant: toOperate,
			summary: "What the machine and the configuration have wrong with them, looked at now: ports, names, certificate, disk, limits, replica.",
			status:  http.StatusOK, answer: Checks{}, handle: s.check,
		},
		{
			method: post, path: "/reachability", id: "checkReachability", tag: "status", grant: toOperate,
			summary: "Which ports of the caller's own machine this server reaches: for parlor check --from on another machine.",
			body:    ReachRequest{}, example: `{"tcp":[443,80],"udp":[443]}`,
			status: http.StatusOK, answer: ReachAnswer{}, handle: s.reach,
		},
	}
}

func (s *rest) webhookOperations() []operation {
	const tag = "webhooks"
	return []operation{
		{
			method: get, path: "/webhooks", id: "listWebhooks", tag: tag, grant: toOperate,
			summary: "The endpoints of the configuration, and those that it no longer names, with how they fare.",
			status:  http.StatusOK, answer: endpointList{}, handle: s.listEndpoints,
		},
		{
			method: get, path: onWebhook, id: "getWebhook", tag: tag, grant: toOperate,
			summary: "One endpoint.",
			status:  http.StatusOK, answer: endpoint{}, handle: s.getEndpoint,
		},
		{
			method: get, path: onWebhook + "/deliveries", id: "listDeliveries", tag: tag, grant: toOperate,
			summary: "An endpoint's deliveries in one state, newest first.",
			query: pageParameters(parameter{
				name: "state", doc: "pending without it.", values: []string{"pending", "delivered", "dead"},
			}),
			status: http.StatusOK, answer: deliveryPage{}, handle: s.listDeliveries,
		},
		{
			method: post, path: onWebhook + "/replay", id: "replayDeliveries", tag: tag, grant: toOperate,
			summary: "Send again: one event, a range, or, without a body, all dead letters. Ids and bodies stay. 409 while the endpoint is disabled: resume it first.",
			body:    replayRequest{}, optional: true, example: `{"from_seq":120,"to_seq":180,"state":"any"}`,
			status: http.StatusOK, answer: replayed{}, handle: s.replay,
		},
		{
			method: post, path: onWebhook + "/pause", id: "pauseWebhook", tag: tag, grant: toOperate,
			summary: "Stop sending to an endpoint; its events wait.",
			body:    pauseRequest{}, optional: true, example: `{"reason":"receiver is moving"}`,
			status: http.StatusOK, answer: endpoint{}, handle: s.pause,
		},
		{
			method: post, path: onWebhook + "/resume", id: "resumeWebhook", tag: tag, grant: toOperate,
			summary: "Send again to an endpoint that is paused or disabled.",
			status:  http.StatusOK, answer: endpoint{}, handle: s.resume,
		},
		{
			method: post, path: onWebhook + "/test", id: "testWebhook", tag: tag, grant: toOperate,
			summary: "Send a test event to that endpoint alone, through the outbox.",
			status:  http.StatusAccepted, answer: testEvent{}, handle: s.sendTest,
		},
	}
}

func (s *rest) dashboardOperations() []operation {
	const tag = "dashboard"
	return []operation{
		{
			method: post, path: "/admin/session", id: "signIn", tag: tag, grant: toSignIn, open: true, role: access.Look,
			summary: "Sign in to the dashboard: a cookie goes in place of a token then, in requests with the header Parlor-Admin from the server's own pages. " +
				"403 from others; 429 after too many tries of an address; 404 where the dashboard is turned off, or on another port.",
			body: signInRequest{}, example: `{"key":"myapp","secret":"…","role":"look"}`,
			status: http.StatusCreated, answer: adminSession{}, secret: true, handle: s.signIn,
		},
		{
			method: get, path: "/admin/session", id: "getAdminSession", tag: tag, grant: toSession,
			summary: "The session that the request is of.",
			status:  http.StatusOK, answer: adminSession{}, handle: s.getSession,
		},
		{
			method: del, path: "/admin/session", id: "signOut", tag: tag, grant: toSession, role: access.Look,
			summary: "Sign out: the session is over.",
			status:  http.StatusNoContent, handle: s.signOut,
		},
		{
			method: get, path: "/admin/sessions", id: "listAdminSessions", tag: tag, grant: toOperate, role: access.All,
			summary: "Who is signed in to the dashboard with this API key or a link of it.",
			status:  http.StatusOK, answer: adminSessionList{}, handle: s.listAdminSessions,
		},
		{
			method: del, path: "/admin/sessions/{id}", id: "endAdminSession", tag: tag, grant: toOperate,
			summary: "End a session of the dashboard.",
			status:  http.StatusNoContent, handle: s.endAdminSession,
		},
		{
			method: post, path: "/admin/links", id: "createAdminLink", tag: tag, grant: toOperate,
			summary: "Make a link that signs in to the dashboard once.",
			body:    linkRequest{}, optional: true, example: `{"role":"look","ttl":600}`,
			status: http.StatusCreated, answer: adminLink{}, secret: true, handle: s.makeAdminLink,
		},
		{
			method: get, path: "/overview", id: "getOverview", tag: tag, grant: toOperate,
			summary: "How the server fares, what is wrong with it and what to do, and figures of the last hour.",
			status:  http.StatusOK, answer: overview{}, handle: s.getOverview,
		},
		{
			method: get, path: "/live", id: "watch", tag: tag, grant: toOperate,
			summary: "The event log as listEvents streams it, but gathered for up to a quarter of a second, with an event overview every other second, whose data is that of getOverview without its hour.",
			query: []parameter{
				{name: "after", doc: "As of listEvents."},
				{name: "room", doc: "A room's id, or a name: all rooms that bore it."},
				{name: "type", doc: "Types of events, separated by commas or given several times.", many: true},
			},
			status: http.StatusOK, stream: true, handle: s.watch,
		},
		{
			method: get, path: "/refusals", id: "listRefusals", tag: tag, grant: toOperate,
			summary: "The newest joins, calls and tries to sign in that were refused, with the reason: 500 at most, since the start.",
			status:  http.StatusOK, answer: refusalList{}, handle: s.listRefusals,
		},
		{
			method: get, path: "/configuration", id: "getConfiguration", tag: tag, grant: toOperate,
			summary: "The configuration in force, without its secrets.",
			status:  http.StatusOK, answer: settingList{}, handle: s.getConfiguration,
		},
		{
			method: get, path: "/audit", id: "listDeeds", tag: tag, grant: toOperate,
			summary: "Who had this API, or LiveKit's, change what, newest first. The newest 100,000 of the dashboard, of tokens with an identity and of API keys are kept each.",
			query: pageParameters(
				parameter{name: "room", doc: "Of the rooms of this name."},
				parameter{name: "of", doc: "Those of the dashboard alone.", values: []string{"dashboard"}},
			),
			status: http.StatusOK, answer: deedPage{}, handle: s.listDeeds,
		},
	}
}
