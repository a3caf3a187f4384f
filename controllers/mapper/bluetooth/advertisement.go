//go:build bluetooth

package bluetooth

import (
	"encoding/binary"
	"slices"

	"github.com/fluidos-edge/testbed/simulators/bluest"
)

// AD types, and the room in an advertisement.
const (
	adShortName    = 0x08
	adName         = 0x09
	adManufacturer = 0xFF
	maxPayload     = 31
)

// payload puts advertising data together again: the local name, and the
// manufacturer data by the company id under which BlueZ filed it, which are
// the first two bytes that were on the air, little endian. In BlueST version 1
// these are no company's but the version and the device id. BlueST's data has
// precedence when not everything fits; a name that does not fit is shortened.
func payload(name string, manufacturer map[uint16][]byte) []byte {
	var fields [][]byte
	for company, data := range manufacturer {
		if len(data) > maxPayload-4 {
			continue
		}
		f := []byte{byte(3 + len(data)), adManufacturer}
		f = binary.LittleEndian.AppendUint16(f, company)
		fields = append(fields, append(f, data...))
	}
	slices.SortFunc(fields, func(a, b []byte) int {
		if x, y := isBlueST(a), isBlueST(b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return slices.Compare(a, b)
	})
	var rest []byte
	for _, f := range fields {
		if len(rest)+len(f) <= maxPayload {
			rest = append(rest, f...)
		}
	}
	kind, room := byte(adName), maxPayload-len(rest)-2
	if len(name) > room {
		kind, name = adShortName, name[:max(room, 0)]
	}
	if name == "" {
		return rest
	}
	b := append([]byte{byte(1 + len(name)), kind}, name...)
	return append(b, rest...)
}

func isBlueST(field []byte) bool {
	_, err := bluest.DecodeAdvertisement(field)
	return err == nil
}
