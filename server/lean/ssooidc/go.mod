module github.com/aws/aws-sdk-go-v2/service/ssooidc

go 1.26.0

require github.com/aws/aws-sdk-go-v2 v1.41.5

require github.com/aws/smithy-go v1.24.2 // indirect
