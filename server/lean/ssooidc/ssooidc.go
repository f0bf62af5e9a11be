// Package ssooidc stands in for AWS's client that refreshes tokens of IAM Identity Center
// (SSO), which the SDK's configuration brings along. See the package sso beside it.
package ssooidc

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// ErrNotHere is the error of every call.
var ErrNotHere = errors.New("sign-in by AWS IAM Identity Center (SSO) is not part of this program: give access keys, a role of the machine, or a web identity")

// Options has nothing to choose.
type Options struct{}

// Client refuses every call.
type Client struct{}

// NewFromConfig makes a Client.
func NewFromConfig(aws.Config, ...func(*Options)) *Client { return &Client{} }

// CreateTokenInput is what the SDK asks with.
type CreateTokenInput struct{ ClientId, ClientSecret, RefreshToken, GrantType *string }

// CreateTokenOutput is what it expects. ExpiresIn is in seconds.
type CreateTokenOutput struct {
	AccessToken, RefreshToken *string
	ExpiresIn                 int32
}

// CreateToken returns [ErrNotHere].
func (*Client) CreateToken(context.Context, *CreateTokenInput, ...func(*Options)) (*CreateTokenOutput, error) {
	return nil, ErrNotHere
}
