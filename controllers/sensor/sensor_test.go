package sensor_test

import (
	"testing"

	"github.com/fluidos-edge/testbed/controllers/sensor"
)

// TestIdentity pins what objects, topics and stored data are named by.
func TestIdentity(t *testing.T) {
	const id, mac = "0123456789abcdef01234567", "C0832A000001"
	uid := sensor.UID(id, mac, "hts221")
	for _, c := range []struct{ what, got, want string }{
		{"uid", uid, "998d04c1-3e95-5190-ab47-ca197cba7b49"},
		{"name", sensor.ObjectName("stwinkt1b-c0832a000001", id, uid, "hts221"), "stwinkt1b-c0832a000001-" + id + "-hts221"},
		{"name without id", sensor.ObjectName("d", "", "u", "p"), "d-0bfe935e70c321c7ca3afc75-p"},
		{"topic", sensor.Topic("c0832a000001", "001C0000-0001-11E1-AC36-0002A5D5C51B", "hts221"), "sensor/C0832A000001/001c0000000111e1ac360002a5d5c51b/hts221"},
		{"key", sensor.Key{Namespace: "n", Device: "d", Part: "p"}.String(), "n/d/p"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, c.got, c.want)
		}
	}
	key := []byte("secret")
	a := sensor.Capability(key, sensor.Key{Namespace: "n", Device: "d", Part: "p"})
	b := sensor.Capability(key, sensor.Key{Namespace: "n", Device: "d", Part: "q"})
	if a == b || a == sensor.Capability([]byte("other"), sensor.Key{Namespace: "n", Device: "d", Part: "p"}) || a == sensor.AdminToken(key) {
		t.Error("a capability serves more than its sensor")
	}
}
