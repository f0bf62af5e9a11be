package rooms

// Codecs lists the mime types that can be published, video first, spelled as LiveKit's
// clients spell them.
func Codecs() []string {
	return []string{
		"video/VP8", "video/H264", "video/VP9", "video/AV1", "video/H265",
		"audio/PCMU", "audio/PCMA", "audio/opus", "audio/red",
	}
}
