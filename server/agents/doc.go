// Package agents speaks LiveKit's worker protocol over WebSocket: workers register, are
// asked for jobs, and get each job with a token for its agent.
//
// The nouns:
//
//   - A worker is one connection of a program that runs agents. Its [rooms.AgentKind]
//     tells
//     which jobs it takes.
//   - A job is one agent's work in a room. It is a row of the database. The room decides
//     which
//     jobs there are, and when one begins.
//   - A pool holds the workers of a kind. Its goroutine reads the waiting jobs of that
//     kind, and
//     asks workers until one takes the job.
//
// A worker that connects again may be there before the end of its old connection is noticed.
// It claims its jobs then, and gets them when the old connection does not answer, or ends.
//
// The package has no state that a restart would lose: workers connect again and name the
// jobs that they still have, and waiting jobs are in the database.
package agents
