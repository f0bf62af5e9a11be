// Package types has the parts of requests and answers of the package signin.
package types

// CreateOAuth2TokenRequestBody is what the SDK asks with.
type CreateOAuth2TokenRequestBody struct{ ClientId, GrantType, RefreshToken *string }

// CreateOAuth2TokenResponseBody is what it expects. ExpiresIn is in seconds.
type CreateOAuth2TokenResponseBody struct {
	AccessToken  *AccessToken
	ExpiresIn    *int32
	RefreshToken *string
}

// AccessToken is temporary credentials.
type AccessToken struct{ AccessKeyId, SecretAccessKey, SessionToken *string }

// OAuth2ErrorCode is why a request was refused.
type OAuth2ErrorCode string

// The reasons that the SDK tells apart.
const (
	OAuth2ErrorCodeTokenExpired            OAuth2ErrorCode = "TOKEN_EXPIRED"
	OAuth2ErrorCodeUserCredentialsChanged  OAuth2ErrorCode = "USER_CREDENTIALS_CHANGED"
	OAuth2ErrorCodeInsufficientPermissions OAuth2ErrorCode = "INSUFFICIENT_PERMISSIONS"
)

// AccessDeniedException is the refusal.
type AccessDeniedException struct{ Error_ OAuth2ErrorCode }

func (e *AccessDeniedException) Error() string { return "access denied: " + string(e.Error_) }
