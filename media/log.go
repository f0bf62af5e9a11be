package media

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// pionLogs turns pion's log messages into slog messages at debug level. Pion warns mostly
// of what the network or the client does; important failures reach us as an error or a
// state.
type pionLogs struct{ log *slog.Logger }

// NewLogger implements logging.LoggerFactory.
func (p pionLogs) NewLogger(scope string) logging.LeveledLogger {
	return pionLog{log: p.log, scope: scope}
}

type pionLog struct {
	log   *slog.Logger
	scope string
}

func (p pionLog) write(level, msg string) {
	p.log.LogAttrs(context.Background(), slog.LevelDebug, msg, slog.String("pion", p.scope), slog.String("at", level))
}

func (p pionLog) writef(level, format string, args []any) {
	if p.log.Enabled(context.Background(), slog.LevelDebug) {
		p.write(level, fmt.Sprintf(format, args...))
	}
}

func (p pionLog) Trace(string)              {}
func (p pionLog) Tracef(string, ...any)     {}
func (p pionLog) Debug(string)              {}
func (p pionLog) Debugf(string, ...any)     {}
func (p pionLog) Info(m string)             { p.write("info", m) }
func (p pionLog) Infof(f string, a ...any)  { p.writef("info", f, a) }
func (p pionLog) Warn(m string)             { p.write("warn", m) }
func (p pionLog) Warnf(f string, a ...any)  { p.writef("warn", f, a) }
func (p pionLog) Error(m string)            { p.write("error", m) }
func (p pionLog) Errorf(f string, a ...any) { p.writef("error", f, a) }
