package topology

import "strings"

// Allowed says whether an allow list lets a board be registered: all if it is empty.
// An entry is an address ("c0:83:2a:10:20:30"), the beginning of one ("c0:83:2a:*") or a
// model ("STWINKT1B"); letters' case does not matter. mac is written with colons.
func Allowed(list []string, model, mac string) bool {
	for _, e := range list {
		if start, ok := strings.CutSuffix(strings.ToLower(e), "*"); ok && strings.HasPrefix(strings.ToLower(mac), start) {
			return true
		}
		if strings.EqualFold(e, mac) || strings.EqualFold(e, model) {
			return true
		}
	}
	return len(list) == 0
}
