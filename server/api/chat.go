package api

import (
	"net/http"

	"parlor/rooms"
	"parlor/server/access"
)

// chat is what a room keeps of its chat.
type chat struct {
	Kept     bool           `json:"kept" doc:"Messages are kept."`
	Messages []chatMessage  `json:"messages" doc:"Those that are kept, the oldest first."`
	Deleted  []rooms.ChatID `json:"deleted" doc:"Those that were deleted, while they would be kept."`
}

// chatMessage is a message of the chat that is kept.
type chatMessage struct {
	ID       string     `json:"id" doc:"As its sender gave it: the id of its text stream."`
	Identity string     `json:"identity" doc:"Of its sender."`
	Name     string     `json:"name" doc:"Of its sender, as it was."`
	Text     string     `json:"text"`
	SentAt   *timestamp `json:"sent_at"`
	EditedAt *timestamp `json:"edited_at" doc:"Null: it was not."`
}

// toRead is the grant for what is said in a room: of those who are in it, and of those who
// may administer it.
func (s *rest) toRead() grant {
	return grant{"roomAdmin of the room, or roomJoin of a participant that is in it", func(r *http.Request) error {
		if toAdmin.ensure(r) == nil {
			return nil
		}
		name, err := pathValue(r, "name")
		if err != nil {
			return err
		}
		if room, err := access.EnsureJoin(r.Context()); err != nil || room != name || name == "" {
			return access.ErrDenied
		}
		_, err = s.Rooms.Participant(r.Context(), name, access.FromContext(r.Context()).Grants.Identity)
		if rooms.ErrorCode(err) == rooms.NotFound {
			return access.ErrDenied
		}
		return err
	}}
}

func (s *rest) getChat(w http.ResponseWriter, r *http.Request) error {
	name, err := pathValue(r, "name")
	if err != nil {
		return err
	}
	rec, err := s.Records.FindOpen(r.Context(), name)
	if err != nil {
		return err
	}
	kept, err := s.Records.Chat(r.Context(), rec.SID)
	if err != nil {
		return err
	}
	out := chat{Kept: rec.Config.KeepChat, Messages: make([]chatMessage, 0, len(kept)), Deleted: []rooms.ChatID{}}
	for _, m := range kept {
		if m.Text == "" {
			out.Deleted = append(out.Deleted, rooms.ChatID{Identity: m.Identity, ID: m.ID})
			continue
		}
		out.Messages = append(out.Messages, chatMessage{
			ID: m.ID, Identity: m.Identity, Name: m.Name, Text: m.Text, SentAt: at(m.SentMs), EditedAt: at(m.EditedMs),
		})
	}
	return sendJSON(w, http.StatusOK, out)
}

// deleteChat deletes a message that a room keeps.
func (s *rest) deleteChat(w http.ResponseWriter, r *http.Request) error {
	at, err := pathValues(r, "name", "identity", "id")
	if err != nil {
		return err
	}
	if err := s.Rooms.DeleteChat(r.Context(), at[0], rooms.ChatID{Identity: at[1], ID: at[2]}); err != nil {
		return err
	}
	return sendNothing(w)
}
