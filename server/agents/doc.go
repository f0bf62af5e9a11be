// Package agents speaks LiveKit's worker protocol over WebSocket: workers register,
// are asked whether they take a job, and get it with a token for its agent.
//
// The nouns:
//
//   - A worker is one connection of a program that runs agents. What it takes is its
//     [rooms.AgentKind].
//   - A job is one agent's work in a room. It is a row of the database; which jobs are
//     wanted, and whether one may begin, its room decides.
//   - A pool is the workers of a kind. Its goroutine reads the jobs that wait for one,
//     and asks workers until one has taken it on.
//
// The package keeps nothing that a restart would lose: workers connect again and say which
// jobs they still have, and jobs that nobody took are found in the database.
package agents
