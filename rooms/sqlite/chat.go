package sqlite

import (
	"context"
	"database/sql"

	"parlor/rooms"
)

// putChat applies changes to what a room keeps of its chat, and deletes the oldest that is
// beyond the bounds.
func (t *tx) putChat(roomSID string, changes []rooms.ChatChange) error {
	for i := range changes {
		m := &changes[i].Message
		var err error
		switch {
		case !changes[i].Edit:
			_, err = t.exec(`UPDATE chat SET text = ?1, edited_ms = ?2, size = ?3 WHERE room_sid = ?4 AND id = ?5 AND identity = ?6 AND text NOT IN ('', ?1)`,
				m.Text, m.SentMs, m.Size(), roomSID, m.ID, m.Identity)
			if err != nil {
				return err
			}
			_, err = t.exec(`INSERT INTO chat (room_sid, seq, size, sent_ms, edited_ms, identity, id, name, text)
				SELECT ?1, (SELECT coalesce(max(seq), 0) + 1 FROM chat WHERE room_sid = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8
				WHERE NOT EXISTS (SELECT 1 FROM chat WHERE room_sid = ?1 AND id = ?6 AND identity = ?5)`,
				roomSID, m.Size(), m.SentMs, m.EditedMs, m.Identity, m.ID, m.Name, m.Text)
		case m.Text == "":
			_, err = t.exec(`UPDATE chat SET text = '', name = '', size = ?1 WHERE room_sid = ?2 AND id = ?3 AND identity = ?4`,
				len(m.ID)+len(m.Identity), roomSID, m.ID, m.Identity)
		default:
			_, err = t.exec(`UPDATE chat SET text = ?1, edited_ms = ?2, size = ?3 WHERE room_sid = ?4 AND id = ?5 AND identity = ?6 AND text <> ''`,
				m.Text, m.EditedMs, m.Size(), roomSID, m.ID, m.Identity)
		}
		if err != nil {
			return err
		}
	}
	if len(changes) == 0 {
		return nil
	}
	_, err := t.exec(`DELETE FROM chat WHERE room_sid = ?1 AND seq IN (SELECT seq FROM
		(SELECT seq, count(*) OVER newer AS messages, sum(size) OVER newer AS bytes FROM chat WHERE room_sid = ?1
			WINDOW newer AS (ORDER BY seq DESC))
		WHERE messages > ?2 OR bytes > ?3)`, roomSID, rooms.MostChat, rooms.MostChatBytes)
	return err
}

// Chat returns the messages that a room keeps, in order. Those that were deleted have no text.
func (s *Store) Chat(ctx context.Context, roomSID string) ([]rooms.ChatMessage, error) {
	var out []rooms.ChatMessage
	err := s.each(ctx, func(rs *sql.Rows) error {
		var m rooms.ChatMessage
		err := rs.Scan(&m.ID, &m.Identity, &m.Name, &m.Text, &m.SentMs, &m.EditedMs)
		out = append(out, m)
		return err
	}, `SELECT id, identity, name, text, sent_ms, edited_ms FROM chat WHERE room_sid = ? ORDER BY seq`, roomSID)
	return out, err
}
