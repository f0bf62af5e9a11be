// Package admin is what the dashboard needs beyond the API that everybody has.
//
// The nouns:
//
//   - A [Session] is a browser in which somebody has signed in, with a role of
//     server/access. [Sessions] keeps them, in memory: a restart signs everybody out.
//     A session's secret is in a cookie, is changed every few minutes, and is taken from
//     the dashboard's own pages alone.
//   - A link is a secret that signs in once. `parlor admin-link` makes one.
//   - A [Sample] is how the server fared for a few seconds; a [Ring] has those of the
//     last hour.
//   - A [Refusal] is a join or a call that was refused; [Refusals] has the newest.
//   - A [Line] is a line of the log; [Lines] has the newest.
//
// What the dashboard shows and does goes over /v1, with the session in place of a token.
package admin
