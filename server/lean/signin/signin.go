// Package signin stands in for AWS's client of the console's sign-in (`aws login`), which
// the SDK's configuration brings along. A person signs in there in a browser, for hours: no
// way to give a server the credentials of its replica. A profile that asks for it gets an
// error that says so.
package signin

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/signin/types"
	"github.com/aws/smithy-go/middleware"
)

// ErrNotHere is the error of every call.
var ErrNotHere = errors.New("sign-in by `aws login` is not part of this program: give access keys, a role of the machine, or a web identity")

// Options has nothing to choose.
type Options struct{}

// Client refuses every call.
type Client struct{}

// NewFromConfig makes a Client.
func NewFromConfig(aws.Config, ...func(*Options)) *Client { return &Client{} }

// WithAPIOptions does nothing: there are no requests that middleware could change.
func WithAPIOptions(...func(*middleware.Stack) error) func(*Options) { return func(*Options) {} }

// CreateOAuth2TokenInput is what the SDK asks with.
type CreateOAuth2TokenInput struct {
	TokenInput *types.CreateOAuth2TokenRequestBody
}

// CreateOAuth2TokenOutput is what it expects.
type CreateOAuth2TokenOutput struct {
	TokenOutput *types.CreateOAuth2TokenResponseBody
}

// CreateOAuth2Token returns [ErrNotHere].
func (*Client) CreateOAuth2Token(context.Context, *CreateOAuth2TokenInput, ...func(*Options)) (*CreateOAuth2TokenOutput, error) {
	return nil, ErrNotHere
}
