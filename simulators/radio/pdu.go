package radio

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/uuid"
)

// A PDU on the wire, big endian:
//
//	0  length    u16  bytes that follow: 50 + len(value)
//	2  kind      u8
//	3  status    u8   of a response
//	4  ref       u32  number of a request, repeated in its response
//	8  conn      u32  the connection, numbered by the client
//	12 emitted   i64  emission of a notification, host monotonic ns
//	20 wall      i64  the same on the wall clock, Unix ns; 0 if it is not known
//	28 uuid      16   characteristic
//	44 address   6    of the board
//	50 rssi      i8   dBm, of an advertisement
//	51 flags     u8
//	52 value     at most 512 bytes, as an attribute in ATT
//
// Both sides are always of one build, so a PDU has no version.
const (
	headerLen = 52
	maxValue  = 512
)

type kind uint8

const (
	// from the client
	kindScan kind = iota + 1 // flagOn: start, else stop
	kindConnect
	kindDisconnect
	kindDiscover // ref is answered by one response; value: entries of uuid and flags
	kindRead
	kindWrite
	kindSubscribe // flagOn: on, else off
	// to the client
	kindResponse
	kindAdvertisement // flagOn: connectable
	kindNotification
	kindDisconnected // value: why
	kindEnd
)

const (
	flagOn uint8 = 1 << iota
	flagRead
	flagWrite
	flagNotify
)

type status uint8

const (
	statusOK status = iota
	statusBusy
	statusUnknown
	statusDisconnected
	statusRefused
	statusEnd
)

type pdu struct {
	kind    kind
	status  status
	ref     uint32
	conn    uint32
	emitted int64
	wall    int64
	uuid    uuid.UUID
	address Address
	rssi    int8
	flags   uint8
	value   []byte
}

// append writes p behind b. A value over maxValue is cut: only our own texts of
// errors could be that long.
func (p pdu) append(b []byte) []byte {
	if len(p.value) > maxValue {
		p.value = p.value[:maxValue]
	}
	b = binary.BigEndian.AppendUint16(b, uint16(headerLen-2+len(p.value)))
	b = append(b, byte(p.kind), byte(p.status))
	b = binary.BigEndian.AppendUint32(b, p.ref)
	b = binary.BigEndian.AppendUint32(b, p.conn)
	b = binary.BigEndian.AppendUint64(b, uint64(p.emitted))
	b = binary.BigEndian.AppendUint64(b, uint64(p.wall))
	b = append(b, p.uuid[:]...)
	b = append(b, p.address[:]...)
	b = append(b, byte(p.rssi), p.flags)
	return append(b, p.value...)
}

// readPDU reads one PDU. io.EOF means that the peer ended between two PDUs.
func readPDU(r io.Reader) (pdu, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:2]); err != nil {
		return pdu{}, err
	}
	n := int(binary.BigEndian.Uint16(h[:]))
	if n < headerLen-2 || n > headerLen-2+maxValue {
		return pdu{}, fmt.Errorf("pdu of %d bytes, want %d to %d", n, headerLen-2, headerLen-2+maxValue)
	}
	if _, err := io.ReadFull(r, h[2:]); err != nil {
		return pdu{}, fmt.Errorf("pdu header: %w", noEOF(err))
	}
	p := pdu{
		kind:    kind(h[2]),
		status:  status(h[3]),
		ref:     binary.BigEndian.Uint32(h[4:]),
		conn:    binary.BigEndian.Uint32(h[8:]),
		emitted: int64(binary.BigEndian.Uint64(h[12:])),
		wall:    int64(binary.BigEndian.Uint64(h[20:])),
		uuid:    uuid.UUID(h[28:44]),
		address: Address(h[44:50]),
		rssi:    int8(h[50]),
		flags:   h[51],
	}
	if p.kind == 0 || p.kind >= kindEnd {
		return pdu{}, fmt.Errorf("pdu of unknown kind %d", p.kind)
	}
	if p.status >= statusEnd {
		return pdu{}, fmt.Errorf("pdu with unknown status %d", p.status)
	}
	if n -= headerLen - 2; n > 0 {
		p.value = make([]byte, n)
		if _, err := io.ReadFull(r, p.value); err != nil {
			return pdu{}, fmt.Errorf("pdu value: %w", noEOF(err))
		}
	}
	return p, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// err is what a response says, nil if it went well.
func (p pdu) err() error {
	var base error
	switch p.status {
	case statusOK:
		return nil
	case statusBusy:
		base = ErrBusy
	case statusUnknown:
		base = ErrUnknown
	case statusDisconnected:
		base = ErrDisconnected
	default:
		return fmt.Errorf("refused: %s", p.value)
	}
	if len(p.value) == 0 {
		return base
	}
	return fmt.Errorf("%w: %s", base, p.value)
}

const entryLen = 17

func appendCharacteristics(b []byte, cs []Characteristic) ([]byte, error) {
	for _, c := range cs {
		id, err := uuid.Parse(c.UUID)
		if err != nil {
			return nil, fmt.Errorf("characteristic %q: %w", c.UUID, err)
		}
		var flags uint8
		for _, f := range []struct {
			on  bool
			bit uint8
		}{{c.Read, flagRead}, {c.Write, flagWrite}, {c.Notify, flagNotify}} {
			if f.on {
				flags |= f.bit
			}
		}
		b = append(append(b, id[:]...), flags)
	}
	if len(b) > maxValue {
		return nil, fmt.Errorf("%d characteristics, at most %d fit", len(cs), maxValue/entryLen)
	}
	return b, nil
}

func parseCharacteristics(b []byte) ([]Characteristic, error) {
	if len(b)%entryLen != 0 {
		return nil, fmt.Errorf("characteristics in %d bytes, want a multiple of %d", len(b), entryLen)
	}
	cs := make([]Characteristic, 0, len(b)/entryLen)
	for ; len(b) > 0; b = b[entryLen:] {
		f := b[16]
		cs = append(cs, Characteristic{
			UUID: uuid.UUID(b[:16]).String(),
			Read: f&flagRead != 0, Write: f&flagWrite != 0, Notify: f&flagNotify != 0,
		})
	}
	return cs, nil
}
