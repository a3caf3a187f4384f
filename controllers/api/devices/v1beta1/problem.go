package v1beta1

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxProblem is the longest AnnotationProblem, in bytes.
const MaxProblem = 512

// Printable returns text in one line of valid UTF-8: white space, and what cannot
// be printed, becomes one space, or nothing at either end. What is longer than most
// bytes is cut, and ends with "..." then. It changes nothing in its own results.
func Printable(text string, most int) string {
	const ellipsis = "..."
	var b strings.Builder
	gap := false
	for _, r := range text {
		if r == ' ' || r == utf8.RuneError || !unicode.IsPrint(r) {
			gap = b.Len() > 0
			continue
		}
		if gap {
			b.WriteByte(' ')
			gap = false
		}
		b.WriteRune(r)
		if b.Len() <= most {
			continue
		}
		if most < len(ellipsis) {
			return ""
		}
		end := most - len(ellipsis)
		for !utf8.RuneStart(b.String()[end]) {
			end--
		}
		return strings.TrimRight(b.String()[:end], " ") + ellipsis
	}
	return b.String()
}
