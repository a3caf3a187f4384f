//go:build bluetooth

package bluetooth_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/fluidos-edge/testbed/controllers/mapper/bluetooth"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

const (
	hci0  = dbus.ObjectPath("/org/bluez/hci0")
	pathA = hci0 + "/dev_C0_83_2A_00_00_0A"
	pathB = hci0 + "/dev_C0_83_2A_00_00_0B"
	gatt  = "org.bluez.GattCharacteristic1"
)

// daemon is a system bus with BlueZ on it: an adapter hci0 and two boards, one of
// each firmware. It is as much of both as a central uses.
type daemon struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	clients map[*client]bool
	objects map[dbus.ObjectPath]map[string]map[string]any // by interface and property
	hidden  map[dbus.ObjectPath]bool                      // not heard yet
	calls   []string                                      // of methods of boards
	scans   chan bool                                     // told what Discovering becomes
	mute    map[string]bool                               // methods that are not answered
	left    chan bool                                     // told when a client has left
}

// client of the bus.
type client struct {
	d     *daemon
	nc    net.Conn
	rules []map[string]string // guarded by the daemon
}

// startDaemon makes a daemon the system bus of this process.
func startDaemon(t *testing.T) *daemon {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
	board := func(mac, name string, company uint16, data string) map[string]map[string]any {
		return map[string]map[string]any{"org.bluez.Device1": {
			"Address": mac, "AddressType": "random", "Name": name, "Alias": name, "RSSI": int16(-60), "UUIDs": []string{},
			"ManufacturerData": map[uint16]dbus.Variant{company: dbus.MakeVariant(unhex(t, data))},
			"Connected":        false, "ServicesResolved": false,
		}}
	}
	d := &daemon{
		listener: l, clients: map[*client]bool{}, scans: make(chan bool, 100), mute: map[string]bool{}, left: make(chan bool, 100),
		objects: map[dbus.ObjectPath]map[string]map[string]any{
			hci0:  {"org.bluez.Adapter1": {"Address": "00:11:22:33:44:55", "Powered": true, "Discovering": false}},
			pathA: board("C0:83:2A:00:00:0A", "STWINBX", 0x0030, "020E27010000 c0832a00000a"),
			pathB: board("C0:83:2A:00:00:0B", "STWINKT", 0x0901, "001D0000 c0832a00000b"),
		},
		hidden: map[dbus.ObjectPath]bool{pathA: true, pathB: true},
	}
	for _, b := range []dbus.ObjectPath{pathA, pathB} {
		for i, c := range []struct {
			uuid  string
			flags []string
		}{
			{environmental, []string{"read", "notify"}},
			{console, []string{"write", "write-without-response", "notify"}},
			{"00000002-000f-11e1-ac36-0002a5d5c51b", []string{"write-without-response"}},
		} {
			service := b + dbus.ObjectPath("/service000"+string(rune('1'+i)))
			d.objects[service] = map[string]map[string]any{"org.bluez.GattService1": {"UUID": c.uuid[:8] + "-1111-11e1-9ab4-0002a5d5c51b"}}
			d.objects[service+"/char0002"] = map[string]map[string]any{gatt: {"UUID": strings.ToUpper(c.uuid), "Flags": c.flags, "Value": []byte{}}}
		}
	}
	d.serving.Go(d.accept)
	t.Cleanup(func() {
		shared, err := dbus.SystemBus() // tinygo's: the next test's is another
		d.stop()
		if err == nil {
			<-shared.Context().Done()
		}
	})
	return d
}

func (d *daemon) stop() {
	d.listener.Close()
	d.mu.Lock()
	for c := range d.clients {
		c.nc.Close()
	}
	d.mu.Unlock()
	d.serving.Wait()
}

func (d *daemon) accept() {
	for {
		nc, err := d.listener.Accept()
		if err != nil {
			return
		}
		c := &client{d: d, nc: nc}
		d.mu.Lock()
		d.clients[c] = true
		d.mu.Unlock()
		d.serving.Go(c.serve)
	}
}

func (c *client) serve() {
	defer func() {
		c.nc.Close()
		c.d.mu.Lock()
		delete(c.d.clients, c)
		c.d.mu.Unlock()
		c.d.left <- true
	}()
	r := bufio.NewReader(c.nc)
	for begun := false; !begun; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		answer := "ERROR\r\n"
		switch line = strings.Trim(line, "\x00\r\n"); {
		case line == "AUTH":
			answer = "REJECTED EXTERNAL\r\n"
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			answer = "OK 0123456789abcdef0123456789abcdef\r\n"
		case line == "BEGIN":
			answer, begun = "", true
		}
		if _, err := c.nc.Write([]byte(answer)); err != nil {
			return
		}
	}
	for {
		m, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		c.answer(m)
	}
}

func header(m *dbus.Message, f dbus.HeaderField) string {
	switch v := m.Headers[f].Value().(type) {
	case string:
		return v
	case dbus.ObjectPath:
		return string(v)
	}
	return ""
}

// answer a call. Signals that it causes come before.
func (c *client) answer(m *dbus.Message) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	body, err := c.call(dbus.ObjectPath(header(m, dbus.FieldPath)), header(m, dbus.FieldInterface), header(m, dbus.FieldMember), m.Body)
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(m.Serial())}, Body: body}
	if err != nil {
		if err.Error() == "mute" {
			return
		}
		reply.Type, reply.Body = dbus.TypeError, []any{"it is " + err.Error()}
		reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(err.Error())
	}
	c.send(reply)
}

func (c *client) send(m *dbus.Message) {
	if len(m.Body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
	}
	if err := m.EncodeTo(c.nc, binary.LittleEndian); err != nil {
		c.nc.Close()
	}
}

// call of a method, with the daemon locked. The error is the name of one.
func (c *client) call(path dbus.ObjectPath, of, method string, args []any) ([]any, error) {
	d := c.d
	if of == "org.freedesktop.DBus" {
		switch method {
		case "Hello":
			return []any{":1.1"}, nil
		case "AddMatch":
			c.rules = append(c.rules, parseRule(args[0].(string)))
			return nil, nil
		case "RemoveMatch":
			i := slices.IndexFunc(c.rules, func(r map[string]string) bool { return maps.Equal(r, parseRule(args[0].(string))) })
			if i < 0 {
				return nil, errors.New("org.freedesktop.DBus.Error.MatchRuleNotFound")
			}
			c.rules = slices.Delete(c.rules, i, i+1)
			return nil, nil
		}
	}
	if of == "org.freedesktop.DBus.ObjectManager" && method == "GetManagedObjects" {
		all := map[dbus.ObjectPath]map[string]map[string]dbus.Variant{}
		for p := range d.objects {
			if d.visible(p) {
				all[p] = map[string]map[string]dbus.Variant{}
				for i := range d.objects[p] {
					all[p][i] = d.properties(p, i)
				}
			}
		}
		return []any{all}, nil
	}
	if !d.visible(path) {
		return nil, errors.New("org.freedesktop.DBus.Error.UnknownObject")
	}
	if of != "org.freedesktop.DBus.Properties" {
		d.calls = append(d.calls, method)
	}
	if d.mute[method] {
		return nil, errors.New("mute")
	}
	connected := func() bool {
		b, _, _ := strings.Cut(string(path), "/service")
		return d.objects[dbus.ObjectPath(b)]["org.bluez.Device1"]["Connected"] == true
	}
	switch of + "." + method {
	case "org.freedesktop.DBus.Properties.Get":
		return []any{dbus.MakeVariant(d.objects[path][args[0].(string)][args[1].(string)])}, nil
	case "org.bluez.Adapter1.SetDiscoveryFilter":
		return nil, nil
	case "org.bluez.Adapter1.StartDiscovery":
		if d.objects[path][of]["Discovering"] == true {
			return nil, errors.New("org.bluez.Error.InProgress")
		}
		d.set(path, of, "Discovering", true)
		d.scans <- true
		return nil, nil
	case "org.bluez.Adapter1.StopDiscovery":
		if d.objects[path][of]["Discovering"] == false {
			return nil, errors.New("org.bluez.Error.Failed")
		}
		d.set(path, of, "Discovering", false)
		d.scans <- false
		return nil, nil
	case "org.bluez.Device1.Connect":
		d.set(path, of, "Connected", true)
		d.set(path, of, "ServicesResolved", true)
		return nil, nil
	case "org.bluez.Device1.Disconnect":
		if !connected() {
			return nil, errors.New("org.bluez.Error.NotConnected")
		}
		d.set(path, of, "Connected", false)
		return nil, nil
	}
	if of != gatt || !connected() {
		return nil, errors.New("org.bluez.Error.NotConnected")
	}
	switch method {
	case "ReadValue":
		return []any{[]byte{1, 2, 3}}, nil
	case "WriteValue":
		d.calls[len(d.calls)-1] += " " + string(args[0].([]byte)) + " " + args[1].(map[string]dbus.Variant)["type"].Value().(string)
		return nil, nil
	case "StartNotify":
		if !slices.Contains(d.objects[path][of]["Flags"].([]string), "notify") {
			return nil, errors.New("org.bluez.Error.NotSupported")
		}
		return nil, nil
	case "StopNotify":
		return nil, nil
	}
	return nil, errors.New("org.freedesktop.DBus.Error.UnknownMethod")
}

func (d *daemon) visible(path dbus.ObjectPath) bool {
	for h, hidden := range d.hidden {
		if hidden && strings.HasPrefix(string(path), string(h)) {
			return false
		}
	}
	return d.objects[path] != nil
}

func (d *daemon) properties(path dbus.ObjectPath, of string) map[string]dbus.Variant {
	all := map[string]dbus.Variant{}
	for k, v := range d.objects[path][of] {
		all[k] = dbus.MakeVariant(v)
	}
	return all
}

// set a property and tell everyone.
func (d *daemon) set(path dbus.ObjectPath, of, property string, value any) {
	d.objects[path][of][property] = value
	d.signal("org.bluez", path, "org.freedesktop.DBus.Properties", "PropertiesChanged", of, map[string]dbus.Variant{property: dbus.MakeVariant(value)}, []string{})
}

// do something with the daemon locked.
func (d *daemon) do(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// advertise makes the boards heard for the first time.
func (d *daemon) advertise() {
	d.do(func() {
		for _, p := range []dbus.ObjectPath{pathA, pathB} {
			d.hidden[p] = false
			d.signal("org.bluez", "/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", p,
				map[string]map[string]dbus.Variant{"org.bluez.Device1": d.properties(p, "org.bluez.Device1")})
		}
	})
}

// signal to every client that has a rule for it.
func (d *daemon) signal(sender string, path dbus.ObjectPath, of, member string, body ...any) {
	for c := range d.clients {
		if slices.ContainsFunc(c.rules, func(rule map[string]string) bool {
			for key, want := range rule {
				got := map[string]string{"type": "signal", "sender": sender, "interface": of, "member": member, "path": string(path)}[key]
				switch key {
				case "arg0":
					got, _ = body[0].(string)
				case "path_namespace":
					if strings.HasPrefix(string(path)+"/", want+"/") {
						got = want
					}
				}
				if got != want {
					return false
				}
			}
			return true
		}) {
			c.send(&dbus.Message{Type: dbus.TypeSignal, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldSender: dbus.MakeVariant(sender), dbus.FieldPath: dbus.MakeVariant(path),
				dbus.FieldInterface: dbus.MakeVariant(of), dbus.FieldMember: dbus.MakeVariant(member),
			}})
		}
	}
}

func parseRule(s string) map[string]string {
	rule := map[string]string{}
	for _, part := range strings.Split(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		rule[key] = strings.Trim(value, "'")
	}
	return rule
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // only a failing test comes near
	t.Cleanup(cancel)
	return ctx
}

func openHCI0(t *testing.T) *bluetooth.Central {
	t.Helper()
	c, err := bluetooth.Open(within(t), "hci0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBlueZ(t *testing.T) {
	d := startDaemon(t)
	c := openHCI0(t)
	defer c.Close()
	ctx := within(t)
	if _, err := c.Connect(ctx, macA); !errors.Is(err, radio.ErrUnknown) {
		t.Errorf("connect a board that was not heard: %v", err)
	}

	heard, err := c.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !<-d.scans {
		t.Fatal("BlueZ is told to stop scanning first")
	}
	d.advertise()
	models := map[string]radio.Address{}
	for range 2 {
		a := <-heard
		said, err := bluest.DecodeAdvertisement(a.Payload)
		if err != nil || said.MAC != a.Address || a.RSSI != -60 || !a.Connectable {
			t.Errorf("%+v: said %+v, %v", a, said, err)
		}
		models[said.Model()] = a.Address
	}
	if d := cmp.Diff(map[string]radio.Address{"STWINBX1": macA, "STWINKT1B": macB}, models); d != "" {
		t.Error(d)
	}

	p, err := c.Connect(ctx, macA)
	if err != nil {
		t.Fatal(err)
	}
	if <-d.scans {
		t.Error("the scan does not pause")
	}
	if !<-d.scans {
		t.Error("the scan is not taken up again")
	}
	got, err := p.Discover(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]radio.Characteristic{
		{UUID: environmental, Read: true, Notify: true},
		{UUID: console, Write: true, Notify: true},
		{UUID: "00000002-000f-11e1-ac36-0002a5d5c51b", Write: true},
	}, got); d != "" {
		t.Error(d)
	}
	subCtx, unsubscribe := context.WithCancel(ctx)
	lines, err := p.Subscribe(subCtx, console)
	if err != nil {
		t.Fatal(err)
	}
	frames, err := p.Subscribe(ctx, environmental)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Subscribe(ctx, "00000002-000f-11e1-ac36-0002a5d5c51b"); err == nil || !strings.Contains(err.Error(), "NotSupported") {
		t.Errorf("subscribe to what does not notify: %v", err)
	}
	// a burst, as a board answers on its console
	const burst = 250
	d.do(func() {
		for i := range burst {
			d.set(pathA+"/service0002/char0002", gatt, "Value", []byte{byte(i)})
			d.set(pathB+"/service0002/char0002", gatt, "Value", []byte{0xff}) // of another board
			d.set(pathA+"/service0001/char0002", gatt, "Value", []byte{byte(i), 1})
		}
	})
	for i := range burst {
		if n := <-lines; n.Characteristic != console || n.Value[0] != byte(i) || len(n.Value) != 1 || n.Emitted != 0 || n.Received == 0 {
			t.Fatalf("notification %d: %+v", i, n)
		}
		if n := <-frames; n.Characteristic != environmental || n.Value[0] != byte(i) || len(n.Value) != 2 {
			t.Fatalf("notification %d: %+v", i, n)
		}
	}
	unsubscribe()
	if _, ok := <-lines; ok {
		t.Error("a notification after the end")
	}
	if v, err := p.Read(ctx, environmental); err != nil || string(v) != "\x01\x02\x03" {
		t.Errorf("read: % x, %v", v, err)
	}
	for _, uuid := range []string{console, "00000002-000f-11e1-ac36-0002a5d5c51b"} {
		if err := p.Write(ctx, uuid, []byte("uid")); err != nil {
			t.Error(err)
		}
	}

	// the connection is lost, and comes back
	d.do(func() { d.set(pathA, "org.bluez.Device1", "Connected", false) })
	<-p.Done()
	if _, ok := <-frames; ok || !errors.Is(p.Err(), radio.ErrDisconnected) {
		t.Errorf("lost: %v", p.Err())
	}
	if p, err = c.Connect(ctx, macA); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Subscribe(ctx, environmental); err != nil {
		t.Fatal(err)
	}
	d.do(func() { // an object that BlueZ forgets
		d.hidden[pathA] = true
		d.signal("org.bluez", "/", "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved", pathA, []string{"org.bluez.Device1"})
	})
	<-p.Done()
	if p, err = c.Connect(ctx, macB); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Subscribe(ctx, environmental); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-d.left // tinygo's stays
	d.do(func() {
		if d.objects[pathB]["org.bluez.Device1"]["Connected"] == true || d.objects[hci0]["org.bluez.Adapter1"]["Discovering"] == true {
			t.Error("Close leaves a board connected, or a scan")
		}
		for c := range d.clients {
			if len(c.rules) != 0 {
				t.Errorf("match rules are left on the bus: %v", c.rules)
			}
		}
		writes := slices.DeleteFunc(slices.Clone(d.calls), func(s string) bool { return !strings.HasPrefix(s, "WriteValue") })
		if d := cmp.Diff([]string{"WriteValue uid request", "WriteValue uid command"}, writes); d != "" {
			t.Error(d)
		}
	})
}

// A program that crashed leaves its boards connected: BlueZ keeps connections.
func TestBlueZConnectedAlready(t *testing.T) {
	d := startDaemon(t)
	d.do(func() {
		d.hidden[pathA] = false
		d.objects[pathA]["org.bluez.Device1"]["Connected"] = true
		d.objects[pathA]["org.bluez.Device1"]["ServicesResolved"] = true
	})
	c := openHCI0(t)
	defer c.Close()
	ctx := within(t)
	heard, err := c.Scan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if a := <-heard; a.Address != macA || !a.Connectable {
		t.Errorf("heard %+v", a)
	}
	p, err := c.Connect(ctx, macA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(ctx, environmental); err != nil {
		t.Error(err)
	}
}

// BlueZ does not answer: whoever waits is let go, and the attempt is aborted.
func TestBlueZDoesNotAnswer(t *testing.T) {
	d := startDaemon(t)
	d.do(func() {
		d.hidden[pathA] = false
		d.mute["Connect"] = true
	})
	c := openHCI0(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Connect(ctx, macA); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("connect: %v", err)
	}
	d.stop() // and with it goes what nobody has answered
	<-c.Done()
	c.Close()
}

func TestBlueZGone(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		happens    func(d *daemon)
	}{
		{"daemon", "daemon has stopped", func(d *daemon) {
			d.do(func() {
				d.signal("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameOwnerChanged", "org.bluez", ":1.7", "")
			})
		}},
		{"adapter off", "hci0 was switched off", func(d *daemon) {
			d.do(func() { d.set(hci0, "org.bluez.Adapter1", "Powered", false) })
		}},
		{"adapter unplugged", "hci0 was removed", func(d *daemon) {
			d.do(func() {
				d.signal("org.bluez", "/", "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved", hci0, []string{"org.bluez.Adapter1"})
			})
		}},
		{"bus", "system bus is gone", func(d *daemon) { d.stop() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := startDaemon(t)
			c := openHCI0(t)
			ctx := within(t)
			heard, err := c.Scan(ctx)
			if err != nil {
				t.Fatal(err)
			}
			<-d.scans
			d.advertise()
			p, err := c.Connect(ctx, macA)
			if err != nil {
				t.Fatal(err)
			}
			frames, err := p.Subscribe(ctx, environmental)
			if err != nil {
				t.Fatal(err)
			}
			tt.happens(d)
			<-c.Done()
			for range heard {
			}
			if _, ok := <-frames; ok {
				t.Error("a notification")
			}
			for _, err := range []error{c.Err(), p.Err()} {
				if !errors.Is(err, radio.ErrDisconnected) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
			}
			c.Close()
		})
	}
}

func TestBlueZOpenRefuses(t *testing.T) {
	d := startDaemon(t)
	for adapter, want := range map[string]string{"../hci0": `adapter "../hci0": want a name such as hci0`, "hci1": "adapter hci1"} {
		if _, err := bluetooth.Open(within(t), adapter, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", adapter, err, want)
		}
	}
	d.do(func() { d.objects[hci0]["org.bluez.Adapter1"]["Powered"] = false })
	if _, err := bluetooth.Open(within(t), "", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "hci0 is off") {
		t.Errorf("off: %v", err)
	}
	d.stop()
	if _, err := bluetooth.Open(within(t), "", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened without a bus")
	}
}
