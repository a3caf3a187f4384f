package radio

import "io"

// Reencode reads PDUs from r until the first error and appends each to b again.
func Reencode(r io.Reader, b []byte) ([]byte, error) {
	for {
		p, err := readPDU(r)
		if err != nil {
			return b, err
		}
		b = p.append(b)
	}
}

// ReencodeCharacteristics is the same for the answer to discover.
func ReencodeCharacteristics(b []byte) ([]byte, error) {
	cs, err := parseCharacteristics(b)
	if err != nil {
		return nil, err
	}
	return appendCharacteristics(nil, cs)
}

// SubscribeBytes are what a client sends to connect to a board, as connection 1,
// and to subscribe to a characteristic without reading any answer.
func SubscribeBytes(mac Address, id [16]byte) []byte {
	b := pdu{kind: kindConnect, ref: 1, conn: 1, address: mac}.append(nil)
	return pdu{kind: kindSubscribe, ref: 2, conn: 1, uuid: id, flags: flagOn}.append(b)
}
