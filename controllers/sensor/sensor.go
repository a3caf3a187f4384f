// Package sensor is what a sensor is, as pure functions: identity, the
// annotation that offers it, and selection. It reads no clock, no network and
// no cluster. ERM, router and relay share it, so that they cannot disagree.
package sensor

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// Key identifies a sensor in a provider: one part of one board.
type Key struct {
	Namespace string
	Device    string
	Part      string
}

// String is "<namespace>/<device>/<part>".
func (k Key) String() string { return k.Namespace + "/" + k.Device + "/" + k.Part }

// UIDNamespace is the UUID namespace of every sensor's uid.
var UIDNamespace = uuid.NewSHA1(uuid.NameSpaceDNS, []byte("sensors.fluidos.eu"))

// UID of a sensor: UUIDv5 of the board's 96-bit id (24 lower-case hex digits),
// its MAC (12 upper-case hex digits) and the part.
func UID(boardID, mac, part string) string {
	return uuid.NewSHA1(UIDNamespace, []byte(boardID+"/"+mac+"/"+part)).String()
}

// ObjectName is the name of a sensor's Flavor and Rule. Without a board id the
// first 96 bits of SHA-256 of the sensor's uid stand in for it.
func ObjectName(device, boardID, uid, part string) string {
	if boardID == "" {
		sum := sha256.Sum256([]byte(uid))
		boardID = hex.EncodeToString(sum[:12])
	}
	return device + "-" + boardID + "-" + part
}

// Topic of a sensor, without the namespace that publishers put before it. mac
// is 12 hex digits, characteristic a UUID with or without dashes.
func Topic(mac, characteristic, part string) string {
	return fmt.Sprintf("sensor/%s/%s/%s", strings.ToUpper(mac),
		strings.ToLower(strings.ReplaceAll(characteristic, "-", "")), part)
}

// Capability is the secret in a Rule's URL that lets its sensor, and no other,
// through the relay: hex HMAC-SHA256 over the sensor's key.
func Capability(key []byte, k Key) string { return sign(key, "samples\x00"+k.String()) }

// AdminToken lets the router read the relay's accounts.
func AdminToken(key []byte) string { return sign(key, "accounts") }

func sign(key []byte, text string) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return hex.EncodeToString(m.Sum(nil))
}
