//go:build bluetooth

package bluetooth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"tinygo.org/x/bluetooth"

	"github.com/fluidos-edge/testbed/simulators/radio"
)

const (
	busName            = "org.bluez"
	busNameOwner       = "org.freedesktop.DBus"
	busObjects         = "org.freedesktop.DBus.ObjectManager"
	busProperties      = "org.freedesktop.DBus.Properties"
	adapterInterface   = "org.bluez.Adapter1"
	deviceInterface    = "org.bluez.Device1"
	attributeInterface = "org.bluez.GattCharacteristic1"
	// stopInterval is how often a scan is told to stop until it does.
	stopInterval = 50 * time.Millisecond
)

var adapterName = regexp.MustCompile(`^hci[0-9]+$`)

// bluez is the stack of a Linux host. Requests go through tinygo, over the
// connection to the system bus that it shares within the process. What BlueZ tells
// by itself comes over a private one that keeps the order, which tinygo's does
// not.
type bluez struct {
	name  string // hci0
	path  dbus.ObjectPath
	bus   *dbus.Conn
	news  news
	ended chan struct{} // closed when nothing is listened to any more

	mu     sync.Mutex
	values map[dbus.ObjectPath]func([]byte) // by characteristic
}

func openBlueZ(adapter string, n news) (stack, error) {
	if adapter == "" {
		adapter = "hci0"
	}
	if !adapterName.MatchString(adapter) {
		return nil, fmt.Errorf("adapter %q: want a name such as hci0", adapter)
	}
	if _, err := enable(adapter); err != nil {
		return nil, err
	}
	bus, err := dbus.ConnectSystemBus(dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, fmt.Errorf("system bus: %w", err)
	}
	b := &bluez{
		name: adapter, path: dbus.ObjectPath("/org/bluez/" + adapter), bus: bus, news: n,
		ended: make(chan struct{}), values: map[dbus.ObjectPath]func([]byte){},
	}
	signals := make(chan *dbus.Signal)
	bus.Signal(signals)
	go b.listen(signals)
	if err := b.subscribe(); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// enable is tinygo's adapter. Each scan and connection has its own: it holds no
// more than a name, and what is left in it by a failure would stand in the way.
func enable(adapter string) (*bluetooth.Adapter, error) {
	a := bluetooth.NewAdapter(adapter)
	if err := a.Enable(); err != nil {
		return nil, fmt.Errorf("adapter %s: %w", adapter, err)
	}
	return a, nil
}

// subscribe to what BlueZ tells, and then see that the adapter is powered.
func (b *bluez) subscribe() error {
	for _, rule := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busProperties), dbus.WithMatchPathNamespace(b.path)},
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busObjects)},
		{dbus.WithMatchSender(busNameOwner), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
	} {
		if err := b.bus.AddMatchSignal(rule...); err != nil {
			return fmt.Errorf("system bus: %w", err)
		}
	}
	var powered bool
	if err := b.bus.Object(busName, b.path).StoreProperty(adapterInterface+".Powered", &powered); err != nil {
		return fmt.Errorf("adapter %s: %w", b.name, err)
	}
	if !powered {
		return fmt.Errorf("adapter %s is off; switch it on with `bluetoothctl power on`", b.name)
	}
	return nil
}

// Close is not called by what listens.
func (b *bluez) Close() error {
	err := b.bus.Close()
	<-b.ended
	return err
}

// listen to what BlueZ tells until the bus is closed.
func (b *bluez) listen(signals <-chan *dbus.Signal) {
	defer close(b.ended)
	for s := range signals {
		switch s.Name {
		case busProperties + ".PropertiesChanged":
			var of string
			var values map[string]dbus.Variant
			var invalid []string
			if dbus.Store(s.Body, &of, &values, &invalid) == nil {
				b.changed(s.Path, of, values)
			}
		case busObjects + ".InterfacesRemoved":
			var path dbus.ObjectPath
			var removed []string
			if dbus.Store(s.Body, &path, &removed) != nil {
				continue
			}
			if path == b.path && slices.Contains(removed, adapterInterface) {
				b.news.gone(fmt.Errorf("adapter %s was removed", b.name))
			} else if mac, ok := b.deviceAt(path); ok && slices.Contains(removed, deviceInterface) {
				b.news.link(mac)
			}
		case busNameOwner + ".NameOwnerChanged":
			var name, old, owner string
			if dbus.Store(s.Body, &name, &old, &owner) == nil && name == busName && old != "" {
				b.news.gone(errors.New("the Bluetooth daemon has stopped"))
			}
		}
	}
	b.news.gone(errors.New("the system bus is gone"))
}

// changed is told the values of an object that are new.
func (b *bluez) changed(path dbus.ObjectPath, of string, values map[string]dbus.Variant) {
	switch of {
	case attributeInterface:
		value, ok := values["Value"].Value().([]byte)
		b.mu.Lock()
		f := b.values[path]
		b.mu.Unlock()
		if ok && f != nil {
			f(value)
		}
	case deviceInterface:
		connected, ok := values["Connected"].Value().(bool)
		if mac, known := b.deviceAt(path); ok && known && !connected {
			b.news.link(mac)
		}
	case adapterInterface:
		if powered, ok := values["Powered"].Value().(bool); ok && !powered && path == b.path {
			b.news.gone(fmt.Errorf("adapter %s was switched off", b.name))
		}
	}
}

// deviceAt is the board behind a path, and whether it is the path of one.
func (b *bluez) deviceAt(path dbus.ObjectPath) (radio.Address, bool) {
	s, ok := strings.CutPrefix(string(path), string(b.path)+"/dev_")
	if !ok || len(s) != len("00_00_00_00_00_00") {
		return radio.Address{}, false
	}
	mac, err := radio.ParseAddress(strings.ReplaceAll(s, "_", ":"))
	return mac, err == nil
}

// device is the inverse of deviceAt.
func (b *bluez) device(mac radio.Address) dbus.ObjectPath {
	return b.path + "/dev_" + dbus.ObjectPath(strings.ReplaceAll(strings.ToUpper(mac.String()), ":", "_"))
}

// Scan. tinygo's StopScan may be called by nobody but its callback, as there is no
// lock: discovery is stopped on the bus, which ends tinygo's scan unless some
// other program goes on scanning; then there is a callback soon.
func (b *bluez) Scan(ctx context.Context, heard func(sighting)) error {
	a, err := enable(b.name)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err = guard(plain(func() error {
			return a.Scan(func(_ *bluetooth.Adapter, r bluetooth.ScanResult) {
				if ctx.Err() != nil {
					_ = a.StopScan() // told before, perhaps
					return
				}
				heard(seen(r))
			})
		}))
	}()
	select {
	case <-ended:
		_ = b.stopDiscovery() // a scan that fails leaves it on
		return err
	case <-ctx.Done():
	}
	tick := time.NewTicker(stopInterval)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		stopErr := b.stopDiscovery() // in vain before it has begun
		select {
		case <-ended:
			return ctx.Err()
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("scan does not stop: %w", stopErr)
		}
	}
}

// stopDiscovery for the client of BlueZ that tinygo is.
func (b *bluez) stopDiscovery() error {
	shared, err := dbus.SystemBus()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return shared.Object(busName, b.path).CallWithContext(ctx, adapterInterface+".StopDiscovery", 0).Err
}

func seen(r bluetooth.ScanResult) sighting {
	s := sighting{Address: r.Address.MAC.Address(), RSSI: r.RSSI, Name: r.LocalName(), Manufacturer: map[uint16][]byte{}}
	for _, m := range r.ManufacturerData() {
		s.Manufacturer[m.CompanyID] = m.Data
	}
	return s
}

func (b *bluez) Connect(mac radio.Address) (device, error) {
	a, err := enable(b.name)
	if err != nil {
		return nil, err
	}
	little := bluetooth.MAC(mac)
	slices.Reverse(little[:])
	d, err := a.Connect(bluetooth.Address{MACAddress: bluetooth.MACAddress{MAC: little}}, bluetooth.ConnectionParams{})
	var said dbus.Error
	if errors.As(err, &said) && strings.HasPrefix(said.Name, "org.freedesktop.DBus.Error.Unknown") {
		return nil, fmt.Errorf("%s has not heard it: %w", b.name, radio.ErrUnknown)
	}
	if err != nil {
		return nil, err
	}
	return &bluezDevice{b, d, b.device(mac)}, nil
}

func (b *bluez) Abort(mac radio.Address) error {
	return b.bus.Object(busName, b.device(mac)).Call(deviceInterface+".Disconnect", 0).Err
}

type bluezDevice struct {
	b *bluez
	bluetooth.Device
	path dbus.ObjectPath
}

// Discover. tinygo gives the characteristics, BlueZ what they can do and where
// their values will come from. Both go by path: of several with one UUID the
// first counts.
func (d *bluezDevice) Discover() ([]characteristic, error) {
	services, err := d.DiscoverServices(nil)
	if err != nil {
		return nil, err
	}
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := d.b.bus.Object(busName, "/").Call(busObjects+".GetManagedObjects", 0).Store(&objects); err != nil {
		return nil, err
	}
	paths := map[string]dbus.ObjectPath{}
	for _, path := range slices.Sorted(maps.Keys(objects)) {
		id, ok := objects[path][attributeInterface]["UUID"].Value().(string)
		if id = strings.ToLower(id); ok && paths[id] == "" && strings.HasPrefix(string(path), string(d.path)+"/") {
			paths[id] = path
		}
	}
	var all []characteristic
	for _, s := range services {
		handles, err := s.DiscoverCharacteristics(nil)
		if err != nil {
			return nil, err
		}
		for i := range handles {
			id := handles[i].UUID().String()
			path := paths[id]
			if path == "" {
				continue
			}
			delete(paths, id)
			flags, _ := objects[path][attributeInterface]["Flags"].Value().([]string)
			write := slices.Contains(flags, "write")
			command := !write && slices.Contains(flags, "write-without-response")
			all = append(all, &bluezCharacteristic{
				b: d.b, handle: &handles[i], path: path, command: command,
				described: radio.Characteristic{
					UUID: id, Read: slices.Contains(flags, "read"), Write: write || command,
					Notify: slices.Contains(flags, "notify"),
				},
			})
		}
	}
	return all, nil
}

type bluezCharacteristic struct {
	b         *bluez
	handle    *bluetooth.DeviceCharacteristic
	notifying *bluetooth.DeviceCharacteristic // a copy of handle, of the last Notify
	path      dbus.ObjectPath
	command   bool // it takes writes without a response only
	described radio.Characteristic
}

func (c *bluezCharacteristic) Describe() radio.Characteristic { return c.described }

func (c *bluezCharacteristic) Read() ([]byte, error) {
	value := make([]byte, maxValue)
	n, err := c.handle.Read(value)
	return value[:n], err
}

func (c *bluezCharacteristic) Write(value []byte) (err error) {
	if c.command {
		_, err = c.handle.WriteWithoutResponse(value)
	} else {
		_, err = c.handle.Write(value)
	}
	return err
}

// Notify. tinygo asks the board for notifications; they are taken from the bus
// that keeps their order, not from tinygo's callback.
func (c *bluezCharacteristic) Notify(f func([]byte)) error {
	c.b.mu.Lock()
	c.b.values[c.path] = f // before the board is asked
	c.b.mu.Unlock()
	handle := *c.handle
	c.notifying = &handle
	err := handle.EnableNotifications(func([]byte) {})
	if err != nil {
		_, _ = guard(plain(c.Silence)) // tinygo goes on listening without a reader
	}
	return err
}

// Silence works on a copy of the handle: tinygo's reader may still have to look
// at the one that it was started with.
func (c *bluezCharacteristic) Silence() error {
	c.b.mu.Lock()
	delete(c.b.values, c.path)
	c.b.mu.Unlock()
	handle := *c.notifying
	return handle.EnableNotifications(nil)
}
