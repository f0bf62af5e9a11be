// Package sso stands in for AWS's client of IAM Identity Center (SSO), which the SDK's
// configuration brings along. A person signs in there in a browser, for hours: no way to
// give a server the credentials of its replica. A profile that asks for it gets an error
// that says so.
package sso

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sso/types"
)

// ErrNotHere is the error of every call.
var ErrNotHere = errors.New("sign-in by AWS IAM Identity Center (SSO) is not part of this program: give access keys, a role of the machine, or a web identity")

// Options has nothing to choose.
type Options struct{}

// Client refuses every call.
type Client struct{}

// NewFromConfig makes a Client.
func NewFromConfig(aws.Config, ...func(*Options)) *Client { return &Client{} }

// GetRoleCredentialsInput is what the SDK asks with.
type GetRoleCredentialsInput struct{ AccessToken, AccountId, RoleName *string }

// GetRoleCredentialsOutput is what it expects.
type GetRoleCredentialsOutput struct{ RoleCredentials *types.RoleCredentials }

// GetRoleCredentials returns [ErrNotHere].
func (*Client) GetRoleCredentials(context.Context, *GetRoleCredentialsInput, ...func(*Options)) (*GetRoleCredentialsOutput, error) {
	return nil, ErrNotHere
}
