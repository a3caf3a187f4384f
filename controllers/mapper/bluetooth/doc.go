// Package bluetooth is the mapper's radio over a real Bluetooth Low Energy
// adapter: what package radio's Client and Conn do over a socket, a [Central] and
// its [Peer] do through BlueZ. All of it is behind the build tag bluetooth.
//
// The way to the adapter is tinygo.org/x/bluetooth. What that leaves open on
// Linux is closed here; a private connection to the system bus listens beside it:
//   - A lost connection is noticed when BlueZ says so, and ends the Peer with
//     radio.ErrDisconnected; so does a Bluetooth daemon, adapter or bus that goes.
//   - Notifications arrive in the order in which BlueZ sent them. Whoever does not
//     read 256 of them loses the connection.
//   - What a characteristic can do is what BlueZ says of it.
//   - Every call ends with its context. What succeeds later is undone.
//   - Nothing outlives Close but a call that the Bluetooth daemon never answers.
//
// What is otherwise than with the simulated radio:
//   - A board's emission time is not known: Notification.Emitted is 0.
//   - Advertising data is put together again from what BlueZ has taken apart; it
//     lacks the transmit power.
//   - Scanning pauses while a board is being connected, and boards are connected
//     one after the other.
//   - A value that is read from a characteristic that is subscribed to comes as a
//     notification too: BlueZ does not tell the two apart.
//
// To try it: build with -tags bluetooth, then `mapper --radio bluetooth:hci0`. The
// user must be allowed to speak to org.bluez on the system bus, which is root and,
// on most distributions, the group bluetooth; in a container, mount
// /run/dbus/system_bus_socket. The tests need no adapter: bluez_test.go serves
// BlueZ's side of the bus.
package bluetooth
