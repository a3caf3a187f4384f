package publish

// Limits of a message, for its tests.
const (
	MaxLines   = maxLines
	MaxMessage = maxMessage
)
