package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"parlor/rooms"
	"parlor/server/access"
	"parlor/server/admin"
	"parlor/server/problem"
)

// startInfo is a start of the server.
type startInfo struct {
	ID           int64      `json:"id"`
	At           *timestamp `json:"at"`
	Version      string     `json:"version"`
	ReadySeconds float64    `json:"ready_seconds" doc:"How long until it served."`
	State        string     `json:"state" enum:"running,stopped,broken_off" doc:"broken_off: it did not stop in order: a crash, a power cut, or a lost lease."`
	StoppedAt    *timestamp `json:"stopped_at" doc:"Null if it runs or was broken off."`
	StopSeconds  *float64   `json:"stop_seconds" doc:"How long it took to stop."`
}

// startPage is a page of starts.
type startPage struct {
	Starts     []startInfo `json:"starts"`
	NextCursor string      `json:"next_cursor,omitempty" doc:"The cursor of the next page; without it this is the last."`
}

func (s *rest) listStarts(w http.ResponseWriter, r *http.Request) error {
	params := r.URL.Query()
	limit, bad := pageSize(params)
	if bad != nil {
		return problem.Fields(*bad)
	}
	var before int64
	if c := params.Get("cursor"); c != "" {
		var err error
		if before, err = strconv.ParseInt(c, 10, 64); err != nil || before < 1 {
			return problem.Fields(badCursor)
		}
	}
	page := startPage{Starts: []startInfo{}}
	if s.Dashboard.Starts == nil {
		return sendJSON(w, http.StatusOK, page)
	}
	found, err := s.Dashboard.Starts.Starts(r.Context(), before, limit+1)
	if err != nil {
		return err
	}
	if len(found) > limit {
		found = found[:limit]
		page.NextCursor = strconv.FormatInt(found[limit-1].ID, 10)
	}
	var own int64
	if s.Dashboard.StartID != nil {
		own = s.Dashboard.StartID()
	}
	for _, one := range found {
		out := startInfo{ID: one.ID, At: at(one.AtMs), Version: one.Version, ReadySeconds: float64(one.ReadyMs) / 1000, State: "broken_off"}
		switch {
		case one.StoppedMs > 0:
			took := float64(one.StopMs) / 1000
			out.State, out.StoppedAt, out.StopSeconds = "stopped", at(one.StoppedMs), &took
		case one.ID == own:
			out.State = "running"
		}
		page.Starts = append(page.Starts, out)
	}
	return sendJSON(w, http.StatusOK, page)
}

// logLine is a line of the log.
type logLine struct {
	Seq     uint64     `json:"seq"`
	At      *timestamp `json:"at"`
	Level   string     `json:"level" enum:"debug,info,warn,error"`
	Message string     `json:"message"`
	Attrs   string     `json:"attrs" doc:"key=value, quoted where needed."`
}

// logPage is the newest lines of the log.
type logPage struct {
	Lines  []logLine `json:"lines" doc:"The oldest first."`
	Newest uint64    `json:"newest" doc:"The seq of the newest line of any level."`
}

func showLine(l *admin.Line) logLine {
	level := "debug"
	switch {
	case l.Level >= slog.LevelError:
		level = "error"
	case l.Level >= slog.LevelWarn:
		level = "warn"
	case l.Level >= slog.LevelInfo:
		level = "info"
	}
	return logLine{Seq: l.Seq, At: at(rooms.NowMs(l.At)), Level: level, Message: l.Message, Attrs: l.Attrs}
}

const (
	mostTails   = 16 // streams of the log at a time
	tailBeat    = 15 * time.Second
	tailRecheck = 3 * time.Second // between two looks whether the reader may still read
	tailWrite   = 30 * time.Second
)

// tailLog answers with the newest lines of the log, or streams them.
func (s *rest) tailLog(w http.ResponseWriter, r *http.Request) error {
	if s.Dashboard.Lines == nil {
		return problem.New(http.StatusNotFound, "not_found", "the log is not kept here")
	}
	params := r.URL.Query()
	var least slog.Level
	switch params.Get("level") {
	case "", "info":
	case "debug":
		least = slog.LevelDebug
	case "warn":
		least = slog.LevelWarn
	case "error":
		least = slog.LevelError
	default:
		return problem.Fields(problem.Field{Path: "level", Detail: "must be debug, info, warn or error"})
	}
	from := params.Get("after")
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		from = last
	}
	var after uint64
	if from != "" {
		var err error
		if after, err = strconv.ParseUint(from, 10, 64); err != nil {
			return problem.Fields(problem.Field{Path: "after", Detail: "must be the seq of a line"})
		}
	}
	lines, newest, _ := s.Dashboard.Lines.After(after, least)
	if newest < after { // the line is of another process
		after = 0
		lines, newest, _ = s.Dashboard.Lines.After(0, least)
	}
	if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return s.streamLog(w, r, after, least)
	}
	page := logPage{Lines: []logLine{}, Newest: newest}
	for i := range lines {
		page.Lines = append(page.Lines, showLine(&lines[i]))
	}
	return sendJSON(w, http.StatusOK, page)
}

// streamLog sends lines as server-sent events (WHATWG HTML, section 9.2) until the reader goes
// or may not read any more. A reader that is too slow misses lines.
func (s *rest) streamLog(w http.ResponseWriter, r *http.Request, after uint64, least slog.Level) error {
	if s.tails.Add(1) > mostTails {
		s.tails.Add(-1)
		return problem.New(http.StatusTooManyRequests, "too_many_streams", "the log is streamed to %d readers already", mostTails)
	}
	defer s.tails.Add(-1)
	unhurried(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would buffer the stream
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	write := func(text string) bool {
		_ = control.SetWriteDeadline(time.Now().Add(tailWrite)) // some writers have none
		_, err := io.WriteString(w, text)
		return err == nil && control.Flush() == nil
	}
	if !write(": the log\n\n") {
		return nil
	}
	beat, check := time.NewTicker(tailBeat), time.NewTicker(tailRecheck)
	defer beat.Stop()
	defer check.Stop()
	for {
		lines, newest, news := s.Dashboard.Lines.After(after, least)
		var text strings.Builder
		for i := range lines {
			body, err := json.Marshal(showLine(&lines[i]))
			if err != nil {
				return nil // our own type: only a bug gets here
			}
			fmt.Fprintf(&text, "id: %d\nevent: line\ndata: %s\n\n", lines[i].Seq, body)
		}
		after = newest
		if text.Len() > 0 && !write(text.String()) {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-news:
		case <-beat.C:
			if !write(": nothing new\n\n") {
				return nil
			}
		case <-check.C:
		}
		if err := s.stillGood(r.Context()); err != nil {
			write("event: gone\ndata: {}\n\n")
			return nil
		}
	}
}

// Backup is a copy of the database on the server's disk.
type Backup struct {
	File  string
	At    time.Time
	Bytes int64
}

// The failures of a Backups that its caller is told.
var (
	// ErrBusy: a copy is being made already.
	ErrBusy = errors.New("a copy is being made already")
	// ErrNoSpace: a copy would leave too little space on the disk.
	ErrNoSpace = errors.New("a copy would leave too little space on the disk")
)

// Backups makes copies of the database.
type Backups interface {
	// BackUp makes a copy. It fails with [ErrBusy] or [ErrNoSpace].
	BackUp(ctx context.Context) (Backup, error)
	// Backups lists the copies that it has made and that are there, the newest first.
	Backups() ([]Backup, error)
}

// backupInfo is a copy of the database.
type backupInfo struct {
	File  string     `json:"file" doc:"On the server's disk."`
	At    *timestamp `json:"at"`
	Bytes int64      `json:"bytes"`
}

// backupList is the copies that there are.
type backupList struct {
	Backups []backupInfo `json:"backups"`
}

func noBackups() error {
	return problem.New(http.StatusNotFound, "not_found", "no copies are made here")
}

func showBackup(b *Backup) backupInfo {
	return backupInfo{File: b.File, At: at(rooms.NowMs(b.At)), Bytes: b.Bytes}
}

func (s *rest) makeBackup(w http.ResponseWriter, r *http.Request) error {
	if s.Dashboard.Backups == nil {
		return noBackups()
	}
	unhurried(w)
	made, err := s.Dashboard.Backups.BackUp(r.Context())
	switch {
	case errors.Is(err, ErrBusy):
		return problem.New(http.StatusConflict, "busy", "%s", ErrBusy)
	case errors.Is(err, ErrNoSpace):
		return problem.New(http.StatusInsufficientStorage, "no_space", "%s", ErrNoSpace)
	case err != nil:
		return err
	}
	return sendJSON(w, http.StatusCreated, showBackup(&made))
}

func (s *rest) listBackups(w http.ResponseWriter, _ *http.Request) error {
	if s.Dashboard.Backups == nil {
		return noBackups()
	}
	found, err := s.Dashboard.Backups.Backups()
	if err != nil {
		return err
	}
	out := backupList{Backups: []backupInfo{}}
	for i := range found {
		out.Backups = append(out.Backups, showBackup(&found[i]))
	}
	return sendJSON(w, http.StatusOK, out)
}

// Generation is what the replica has of a generation.
type Generation struct {
	Number    int64
	Files     int
	Bytes     int64
	Snapshots []time.Time
	From, To  time.Time // what can be restored; zero = nothing
}

// generationInfo is what the replica has of a generation.
type generationInfo struct {
	Generation int64        `json:"generation"`
	Files      int          `json:"files"`
	Bytes      int64        `json:"bytes"`
	Snapshots  []*timestamp `json:"snapshots" doc:"When each was made."`
	From       *timestamp   `json:"from" doc:"parlor restore --at takes any time from this one; null if nothing can be restored."`
	To         *timestamp   `json:"to" doc:"Until this one."`
}

// generationList is what the replica has.
type generationList struct {
	Generations []generationInfo `json:"generations" doc:"The newest ten, the newest first."`
}

const (
	replicaBound = 20 * time.Second // for the replica to be listed
	replicaKept  = time.Minute      // for a list of it, because a large one costs many requests
)

// lastReplica is what the replica had when it was listed last.
type lastReplica struct {
	turn  chan struct{} // holds one while the replica is listed or the following is read
	at    time.Time
	found []Generation
}

// generations lists the replica, once for all that ask in a minute.
func (s *rest) generations(ctx context.Context) ([]Generation, error) {
	last := &s.replica
	select {
	case last.turn <- struct{}{}:
		defer func() { <-last.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !last.at.IsZero() && time.Since(last.at) < replicaKept {
		return last.found, nil
	}
	found, err := s.Dashboard.Generations(ctx)
	if err == nil {
		last.found, last.at = found, time.Now()
	}
	return found, err
}

func (s *rest) listGenerations(w http.ResponseWriter, r *http.Request) error {
	if s.Dashboard.Generations == nil {
		return problem.New(http.StatusNotFound, "not_found", "there is no replica")
	}
	ctx, cancel := context.WithTimeout(r.Context(), replicaBound)
	defer cancel()
	found, err := s.generations(ctx)
	if err != nil {
		s.Log.Warn("the replica cannot be listed", "error", err)
		return problem.New(http.StatusBadGateway, "replica", "the replica cannot be listed, see the log")
	}
	out := generationList{Generations: []generationInfo{}}
	when := func(t time.Time) *timestamp {
		if t.IsZero() {
			return nil
		}
		return at(rooms.NowMs(t))
	}
	for _, g := range found {
		one := generationInfo{Generation: g.Number, Files: g.Files, Bytes: g.Bytes, Snapshots: []*timestamp{}, From: when(g.From), To: when(g.To)}
		for _, t := range g.Snapshots {
			one.Snapshots = append(one.Snapshots, when(t))
		}
		out.Generations = append(out.Generations, one)
	}
	return sendJSON(w, http.StatusOK, out)
}

// machineOperations are about the process and its database.
func (s *rest) machineOperations() []operation {
	const tag = "dashboard"
	return []operation{
		{
			method: get, path: "/starts", id: "listStarts", tag: tag, grant: toOperate,
			summary: "When the server was started, in which version, what that took, and whether it stopped in order; newest first. The newest 1000 are kept.",
			query:   pageParameters(), status: http.StatusOK, answer: startPage{}, handle: s.listStarts,
		},
		{
			method: get, path: "/log", id: "tailLog", tag: tag, grant: toOperate, role: access.All,
			summary: "The newest lines of the log, as JSON, or as server-sent events named line for a client that accepts text/event-stream: 1000 at most, since the start.",
			query: []parameter{
				{name: "level", doc: "The least; info without it. The configuration's logging.level holds, too.", values: []string{"debug", "info", "warn", "error"}},
				{name: "after", doc: "The seq of a line: those after it. Last-Event-ID goes before it."},
			},
			status: http.StatusOK, answer: logPage{}, stream: true, handle: s.tailLog,
		},
		{
			method: get, path: "/backups", id: "listBackups", tag: tag, grant: toOperate,
			summary: "The copies of the database that createBackup has made, the newest first.",
			status:  http.StatusOK, answer: backupList{}, handle: s.listBackups,
		},
		{
			method: post, path: "/backups", id: "createBackup", tag: tag, grant: toOperate,
			summary: "Copy the database, as of one moment, into a file beside it. The newest five are kept. 409 (code busy) while one is made, 507 (code no_space) if the disk has too little space.",
			status:  http.StatusCreated, answer: backupInfo{}, handle: s.makeBackup,
		},
		{
			method: get, path: "/replica/generations", id: "listGenerations", tag: tag, grant: toOperate,
			summary: "What the replica has, and which times can be restored. It asks the replica, once a minute at most; 404 without one.",
			status:  http.StatusOK, answer: generationList{}, handle: s.listGenerations,
		},
	}
}
