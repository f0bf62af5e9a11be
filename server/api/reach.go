package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"parlor/media"
	"parlor/server/access"
	"parlor/server/problem"
)

// MaxReached is how many ports one request may name.
const MaxReached = 16

// reachTime is how long trying all of them may take.
const reachTime = 5 * time.Second

// ReachRequest names ports of the caller's machine.
type ReachRequest struct {
	TCP []uint32 `json:"tcp,omitempty" doc:"TCP ports, which are connected to."`
	UDP []uint32 `json:"udp,omitempty" doc:"UDP ports, which are sent a STUN Binding request (RFC 8489): what listens there must answer it, as a Parlor's media and a TURN server do."`
}

// Reached is what became of the request for one port.
type Reached struct {
	Protocol string `json:"protocol" enum:"tcp,udp"`
	Port     int    `json:"port"`
	Reached  bool   `json:"reached"`
	Found    string `json:"found" doc:"What happened, in a sentence."`
}

// ReachAnswer tells which ports were reached.
type ReachAnswer struct {
	Address string    `json:"address" doc:"The caller's address, which was tried."`
	Ports   []Reached `json:"ports"`
}

// reach tries to reach ports of the caller's machine from this one. It tries no other
// machine's, because the server would otherwise look into networks for its callers. A private
// address must be the connection's own.
func (s *rest) reach(w http.ResponseWriter, r *http.Request) error {
	var body ReachRequest
	if err := s.readJSON(r, &body); err != nil {
		return err
	}
	addr, err := netip.ParseAddr(access.Address(r.RemoteAddr))
	// An address that a proxy tells has no port (0), and none of the proxy's own network is
	// believed: its callers may have invented it.
	_, port, _ := net.SplitHostPort(r.RemoteAddr)
	if addr = addr.Unmap(); err != nil || !addr.IsGlobalUnicast() || port == "0" && addr.IsPrivate() {
		return problem.New(http.StatusBadRequest, "invalid_argument", "the request must come from another machine, and comes from %s", access.Address(r.RemoteAddr))
	}
	var wrong []problem.Field
	for path, ports := range map[string][]uint32{"tcp": body.TCP, "udp": body.UDP} {
		for at, port := range ports {
			if port < 1 || port > 65535 {
				wrong = append(wrong, problem.Field{Path: path + "[" + strconv.Itoa(at) + "]", Detail: "must be from 1 to 65535"})
			}
		}
	}
	if n := len(body.TCP) + len(body.UDP); n == 0 || n > MaxReached {
		wrong = append(wrong, problem.Field{Path: "tcp", Detail: "must be, with udp, 1 to " + strconv.Itoa(MaxReached) + " ports"})
	}
	if wrong != nil {
		return problem.Fields(wrong...)
	}
	return sendJSON(w, http.StatusOK, ReachAnswer{Address: addr.String(), Ports: reachAll(r.Context(), addr, &body)})
}

// reachAll tries all ports of a request at the same time.
func reachAll(ctx context.Context, addr netip.Addr, q *ReachRequest) []Reached {
	all := make([]Reached, 0, len(q.TCP)+len(q.UDP))
	for _, port := range q.TCP {
		all = append(all, Reached{Protocol: "tcp", Port: int(port)})
	}
	for _, port := range q.UDP {
		all = append(all, Reached{Protocol: "udp", Port: int(port)})
	}
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	var trying sync.WaitGroup
	for i := range all {
		trying.Go(func() {
			out := &all[i]
			to := netip.AddrPortFrom(addr, uint16(out.Port))
			found, err := "it accepts connections", error(nil)
			if out.Protocol == "udp" {
				found = "it answers"
				err = media.AnswersSTUN(ctx, to)
			} else {
				err = connectTo(ctx, to)
			}
			out.Reached, out.Found = err == nil, found
			switch {
			case err == nil:
			case errors.Is(err, syscall.ECONNREFUSED):
				out.Found = "nothing listens there"
			case out.Protocol == "udp": // Parlor answers some questions of strangers a second
				out.Found = "nothing answers: what is sent there is dropped on the way, what listens is something else, or it was asked too often, as by others at the same time"
			default:
				out.Found = "nothing answers: what is sent there is dropped on the way, or what listens is something else"
			}
		})
	}
	trying.Wait()
	return all
}

// connectTo connects by TCP, and says nothing.
func connectTo(ctx context.Context, to netip.AddrPort) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	return conn.Close()
}
