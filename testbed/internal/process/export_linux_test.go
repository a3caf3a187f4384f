package process

// ParseStat gives start time, parent and whether it is a zombie.
func ParseStat(s string) (string, int, bool, error) {
	f, err := parseStat(s)
	return f.start, f.parent, f.zombie, err
}
