package hollowedge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Config is the config file.
type Config struct {
	Nodes []Node `json:"nodes"`
	// MessageQPS and MessageBurst are the throttle from each node to the cloud,
	// messages/s and messages; zero means KubeEdge's 30 and 60.
	MessageQPS   int `json:"messageQPS"`
	MessageBurst int `json:"messageBurst"`
}

// Node is one edge node.
type Node struct {
	// Name of the Node object.
	Name string `json:"name"`
	// MQTT is where its broker listens: a loopback address with port, or empty
	// for no broker. Port 0 takes a free one.
	MQTT string `json:"mqtt,omitempty"`
	// DMI is the path of its unix socket for mappers, or empty for none: absolute,
	// at most 104 bytes, in a folder that exists.
	DMI string `json:"dmi,omitempty"`
}

// maxSocketPath is what every system can have as the path of a unix socket, less
// what a name beside it takes.
const maxSocketPath = 104

// DecodeConfig reads exactly one Config and checks it. Unknown fields are
// errors; all problems are reported at once, each with its field.
func DecodeConfig(r io.Reader) (Config, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	var c Config
	if err := d.Decode(&c); err != nil {
		return Config{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("something follows the JSON object")
	}
	if err := c.complete(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// complete fills in defaults and reports everything that is wrong.
func (c *Config) complete() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MessageQPS == 0 {
		c.MessageQPS = 30
	}
	if c.MessageBurst == 0 {
		c.MessageBurst = 60
	}
	if c.MessageQPS < 0 {
		fail("messageQPS: %d is negative; 0 means 30", c.MessageQPS)
	}
	if c.MessageBurst < 0 {
		fail("messageBurst: %d is negative; 0 means 60", c.MessageBurst)
	}
	if len(c.Nodes) == 0 {
		fail("nodes: there is none")
	}
	names, brokers, sockets := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, n := range c.Nodes {
		if problems := validation.IsDNS1123Subdomain(n.Name); len(problems) > 0 {
			fail("nodes[%d].name: %q: %s", i, n.Name, strings.Join(problems, "; "))
		}
		if names[n.Name] {
			fail("nodes[%d].name: %q is there twice", i, n.Name)
		}
		names[n.Name] = true
		if n.DMI != "" {
			switch {
			case !filepath.IsAbs(n.DMI):
				fail("nodes[%d].dmi: %q is not an absolute path", i, n.DMI)
			case len(n.DMI) > maxSocketPath:
				fail("nodes[%d].dmi: %q has %d bytes; a socket's path has at most %d", i, n.DMI, len(n.DMI), maxSocketPath)
			case sockets[filepath.Clean(n.DMI)]:
				fail("nodes[%d].dmi: %q is there twice", i, n.DMI)
			}
			sockets[filepath.Clean(n.DMI)] = true
		}
		if n.MQTT == "" {
			continue
		}
		addr, err := netip.ParseAddrPort(n.MQTT)
		switch {
		case err != nil:
			fail("nodes[%d].mqtt: %q is not like 127.0.0.1:1884", i, n.MQTT)
		case !addr.Addr().IsLoopback():
			fail("nodes[%d].mqtt: %q is not a loopback address; the broker knows no passwords", i, n.MQTT)
		case addr.Port() != 0 && brokers[n.MQTT]:
			fail("nodes[%d].mqtt: %q is there twice", i, n.MQTT)
		}
		brokers[n.MQTT] = true
	}
	return errors.Join(errs...)
}
