package command

import "strings"

// Lines is a Writer that hands on what is written line by line, without the line's end.
type Lines struct {
	Each func(line string)
	rest string
}

func (l *Lines) Write(p []byte) (int, error) {
	l.rest += string(p)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			return len(p), nil
		}
		l.rest = rest
		l.Each(strings.TrimRight(line, "\r"))
	}
}
