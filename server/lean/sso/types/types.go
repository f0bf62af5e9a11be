// Package types has the parts of answers of the package sso.
package types

// RoleCredentials are temporary credentials. Expiration is in milliseconds since 1970.
type RoleCredentials struct {
	AccessKeyId, SecretAccessKey, SessionToken *string
	Expiration                                 int64
}
