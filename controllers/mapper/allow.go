package mapper

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
	"github.com/fluidos-edge/testbed/testbed/topology"
)

// allowList says which boards a mapper connects: all if it is empty. An entry is
// an address ("c0:83:2a:10:20:30"), the beginning of one ("c0:83:2a:*") or a model
// ("STWINKT1B").
type allowList []string

// beginning of an address, without its star.
var beginning = regexp.MustCompile(`^([0-9a-f]{2}:){0,5}[0-9a-f]{0,2}$`)

// check writes addresses in one form, and says what is wrong with the first bad entry.
func (l allowList) check() error {
	for i, e := range l {
		if start, ok := strings.CutSuffix(strings.ToLower(e), "*"); ok && beginning.MatchString(start) {
			continue
		}
		if a, err := radio.ParseAddress(e); err == nil {
			l[i] = a.String()
			continue
		}
		if _, err := bluest.NewAdvertisement(strings.ToUpper(e), [6]byte{}); err == nil {
			continue
		}
		return fmt.Errorf("--allow %q: want an address as c0:83:2a:10:20:30, the beginning of one as c0:83:2a:*, or a model as STWINKT1B", e)
	}
	return nil
}

func (l allowList) allows(model string, mac radio.Address) bool {
	return topology.Allowed(l, model, mac.String())
}
