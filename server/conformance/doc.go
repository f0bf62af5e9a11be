// Package conformance holds black-box tests that drive a running server with stock
// LiveKit clients: the Go SDK in both of its connection modes, the Node SDKs, a browser
// beside them, and a small client of our own for messages that no SDK would send. It
// imports nothing of Parlor: the tests know a binary, its configuration file, and the
// wire.
//
// The package is a module of its own, so that the SDKs and what they bring are no
// dependencies of the server.
//
// The server under test is the parent module, built once per run. The environment can name
// another:
//
//	PARLOR_BINARY   a server binary to test instead of building one
//	PARLOR_REF      path of a stock LiveKit server. It checks the tests
//	                themselves: features that it lacks are then skipped
//	CI              "true": a missing prerequisite is a failure and not a skip
package conformance
