// Package conformance holds black-box tests that drive a running server
// with stock LiveKit clients: the Go SDK in both of its connection modes, the
// Node SDKs, a browser beside them, and a small client of our own for what no SDK
// would ever send.
// Nothing of Parlor is imported: the tests know a binary, its configuration
// file, and the wire.
//
// The package is a module of its own because the newest Go SDK does not
// compile with the protocol version the server speaks.
//
// The server under test is the parent module, built once per run. The
// environment can name another:
//
//	PARLOR_BINARY   a server binary to test instead of building one
//	PARLOR_REF      path of a stock LiveKit server. It checks the tests
//	                themselves: what stock does not do is then skipped
//	CI              "true": what a test needs and does not find is a failure
//	                instead of a skip
package conformance
