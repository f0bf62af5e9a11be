package api

import (
	"context"
	"net/http"
)

// The states of a [Check].
const (
	CheckOK      = "ok"
	CheckWarning = "warning" // it works, but something should be done
	CheckFailed  = "failed"  // it does not work, or soon will not
)

// Check is one look at the machine or the configuration.
type Check struct {
	What  string `json:"what" doc:"Such as disk or certificate."`
	State string `json:"state" enum:"ok,warning,failed"`
	Found string `json:"found" doc:"What was seen, in a sentence."`
	Do    string `json:"do,omitempty" doc:"What to do about it; absent if nothing is to be done."`
}

// Checks are all looks.
type Checks struct {
	State  string  `json:"state" enum:"ok,warning,failed" doc:"The worst of all."`
	Checks []Check `json:"checks"`
}

// Worst is the worst of their states.
func Worst(all []Check) string {
	worst := CheckOK
	for _, c := range all {
		if c.State == CheckFailed || (c.State == CheckWarning && worst == CheckOK) {
			worst = c.State
		}
	}
	return worst
}

// check answers with the checks of the server's machine.
func (s *rest) check(w http.ResponseWriter, r *http.Request) error {
	out := Checks{Checks: []Check{}}
	if s.Check != nil {
		out.Checks = append(out.Checks, s.Check(r.Context())...)
	}
	out.State = Worst(out.Checks)
	return sendJSON(w, http.StatusOK, out)
}

// Checker does the checks. It returns soon, even if a check gets no answer.
type Checker func(context.Context) []Check
