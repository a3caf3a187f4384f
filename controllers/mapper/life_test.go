package mapper_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	devices "github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/controllers/mapper"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

const macOther = "c0:83:2a:00:00:02"

// Every characteristic that carries an announced part is published, with the
// part's category, fields and topic, and no other is subscribed to but the battery.
func TestAllParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, "c0:83:2a:00:11:22", "STWINKT1B", bluest.EnvironmentalKT1B, bluest.Inertial, bluest.Microphone)
		p.id = idKT1B
		b := newBench(t, []*puppet{p})
		if diff := cmp.Diff([]string{"00000001-000e", "00020000-0001", "001d0000-0001", "00e00000-0001", "04000000-0001"}, p.subscribed()); diff != "" {
			t.Errorf("subscribed to (-want +got):\n%s", diff)
		}
		p.send(bluest.EnvironmentalKT1B, map[string]float64{bluest.Pressure: 1013.25, bluest.Humidity: 47.1, bluest.Temperature: 23.4, bluest.Temperature2: 23.6})
		p.send(bluest.Inertial, map[string]float64{
			"accelerationX": 1, "accelerationY": -2, "accelerationZ": 1000, "angularRateX": 0.1, "angularRateY": 0.2, "angularRateZ": -0.3,
			"magneticFieldX": 240, "magneticFieldY": 0, "magneticFieldZ": -415})
		p.send(bluest.Microphone, map[string]float64{"soundLevel1": 42})
		p.send(bluest.Battery, nil)
		synctest.Wait()
		var got []string
		epochs := map[int64]bool{}
		for _, s := range b.published {
			measurement, tags, _ := strings.Cut(s.head, ",")
			_, part, _ := strings.Cut(tags, "part=")
			part, _, _ = strings.Cut(part, ",")
			got = append(got, measurement+" "+part+" "+s.values)
			epochs[s.epoch] = true
			if s.seq != 1 || s.latency != 0 {
				t.Errorf("%+v", s)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff([]string{
			"audio imp34dt05 sound_level_1_db=42",
			"environmental hts221 humidity_percent=47.1,temperature_celsius=23.4",
			"environmental lps22hh pressure_hpa=1013.25",
			"environmental stts751 temperature_celsius=23.6",
			"inertial iis2mdc magnetic_field_x_mgauss=240,magnetic_field_y_mgauss=0,magnetic_field_z_mgauss=-415",
			"inertial ism330dhcx acceleration_x_mg=1,acceleration_y_mg=-2,acceleration_z_mg=1000,angular_rate_x_dps=0.1,angular_rate_y_dps=0.2,angular_rate_z_dps=-0.3",
		}, got); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}

		var d devices.Device
		if err := b.api.Get(t.Context(), client.ObjectKey{Namespace: "fluidos", Name: p.device()}, &d); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, q := range d.Spec.Properties {
			names = append(names, q.Name)
		}
		if diff := cmp.Diff([]string{
			"hts221-humidity", "hts221-temperature", "lps22hh-pressure", "stts751-temperature",
			"ism330dhcx-accelerationx", "ism330dhcx-accelerationy", "ism330dhcx-accelerationz",
			"ism330dhcx-angularratex", "ism330dhcx-angularratey", "ism330dhcx-angularratez",
			"iis2mdc-magneticfieldx", "iis2mdc-magneticfieldy", "iis2mdc-magneticfieldz",
			"imp34dt05-soundlevel", "battery-level", "sampling-rate",
		}, names); diff != "" {
			t.Errorf("properties (-want +got):\n%s", diff)
		}
		var offered []nodecore.Characteristics
		decodeAnnotation(t, d.Annotations[devices.AnnotationSensors], &offered)
		topics := map[string]string{}
		for _, s := range offered {
			_, topics[strings.ToLower(s.Model)], _ = strings.Cut(s.Access.Resource.Topic, "/")
		}
		want := map[string]string{}
		for part, mask := range map[string]string{"hts221": "001d0000", "lps22hh": "001d0000", "stts751": "001d0000", "ism330dhcx": "00e00000", "iis2mdc": "00e00000", "imp34dt05": "04000000"} {
			want[part] = "C0832A001122/" + mask + "000111e1ac360002a5d5c51b/" + part
		}
		if diff := cmp.Diff(want, topics); diff != "" {
			t.Errorf("topics (-want +got):\n%s", diff)
		}

		// What is not offered any more is not listened to, and back again.
		all := p.console
		p.air.mu.Lock()
		p.console = func(c string) string {
			if c == "sensors" {
				return `[{"model":"IMP34DT05"}]`
			}
			return all(c)
		}
		p.air.mu.Unlock()
		p.print("sensors changed")
		b.pass(time.Second)
		if diff := cmp.Diff([]string{"00000001-000e", "00020000-0001", "04000000-0001"}, p.subscribed()); diff != "" {
			t.Errorf("subscribed to (-want +got):\n%s", diff)
		}
		p.air.mu.Lock()
		p.console = all
		p.air.mu.Unlock()
		p.print("sensors changed")
		b.pass(time.Second)
		if got := p.subscribed(); len(got) != 5 {
			t.Errorf("subscribed to %q", got)
		}
	})
}

// Boards with ST's own firmware do not announce sensors: those of their model stand
// in, as far as their characteristics carry them.
func TestBoardsThatAnnounceNothing(t *testing.T) {
	uid := func(command string) string { return map[string]string{"uid": "0034003E3137510732393432_481"}[command] }
	for _, tt := range []struct {
		name     string
		features []bluest.Mask
		model    string
		console  func(string) string
		none     bool // there is no console at all
		want     map[string]string
		id       string
	}{
		{"it echoes", []bluest.Mask{bluest.EnvironmentalKT1B}, "STWINKT1B", func(c string) string { return map[string]string{"uid": idKT1B, "sensors": "sensors"}[c] }, false,
			map[string]string{"HTS221": "Humidity,Temperature", "LPS22HH": "Pressure", "STTS751": "Temperature"}, idKT1B},
		{"it says nothing", []bluest.Mask{bluest.EnvironmentalKT1B}, "STWINKT1B", uid, false,
			map[string]string{"HTS221": "Humidity,Temperature", "LPS22HH": "Pressure", "STTS751": "Temperature"}, idKT1B},
		{"it does not know the command", []bluest.Mask{bluest.EnvironmentalBX1}, "STWINBX1", func(c string) string { return map[string]string{"uid": idBX1, "sensors": "unknown command"}[c] }, false,
			map[string]string{"STTS22H": "Temperature", "ILPS22QS": "Pressure"}, idBX1},
		{"a layout without second temperature", []bluest.Mask{bluest.Environmental}, "STWINKT1B", uid, false,
			map[string]string{"HTS221": "Humidity,Temperature", "LPS22HH": "Pressure"}, idKT1B},
		{"motion and sound too", []bluest.Mask{bluest.EnvironmentalBX1, bluest.Inertial, bluest.Microphone}, "STWINBX1", uid, false,
			map[string]string{"STTS22H": "Temperature", "ILPS22QS": "Pressure", "ISM330DHCX": "Acceleration,AngularRate", "IIS2MDC": "MagneticField", "IMP34DT05": "SoundLevel"}, idKT1B},
		{"no console", []bluest.Mask{bluest.EnvironmentalBX1}, "STWINBX1", nil, true, map[string]string{"STTS22H": "Temperature", "ILPS22QS": "Pressure"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPuppet(t, macBX1, tt.model, tt.features...)
				p.console = tt.console
				if tt.none {
					p.characteristics = slices.DeleteFunc(p.characteristics, func(c radio.Characteristic) bool { return c.UUID == bluest.ConsoleUUID })
				}
				b := newBench(t, []*puppet{p})
				b.pass(15 * time.Second)
				var d devices.Device
				if err := b.api.Get(t.Context(), client.ObjectKey{Namespace: "fluidos", Name: p.device()}, &d); err != nil {
					t.Fatal(err)
				}
				if got := d.Labels[devices.LabelBoardID]; got != tt.id {
					t.Errorf("board id %q, want %q", got, tt.id)
				}
				var offered []nodecore.Characteristics
				decodeAnnotation(t, d.Annotations[devices.AnnotationSensors], &offered)
				got := map[string]string{}
				for _, s := range offered {
					got[s.Model] = strings.Join(s.Type.SensorType, ",")
					if len(s.Properties.Unit.Measurement) != len(s.Type.SensorType) || s.Manufacturer != "STMicroelectronics" {
						t.Errorf("%+v", s)
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("offered (-want +got):\n%s", diff)
				}
				p.send(p.feature(), nil)
				synctest.Wait()
				if len(b.published) == 0 {
					t.Error("nothing is published")
				}
				b.take(p, "4")
				b.pass(10 * time.Second)
				if diff := cmp.Diff([]string{fmt.Sprintf("%08x 4", uint32(p.feature()))}, p.writes()); diff != "" {
					t.Errorf("rate (-want +got):\n%s", diff)
				}
				p.send(p.feature(), nil)
				b.pass(10 * time.Second)
				if got := b.reported(p, "sampling-rate"); got != "4/4" {
					t.Errorf("sampling-rate %s", got)
				}
				for _, e := range b.events(p) { // frames are far between here
					if !strings.HasPrefix(e, "BoardSilent ") && !strings.HasPrefix(e, "BoardRecovered ") {
						t.Errorf("event %s", e)
					}
				}
			})
		})
	}
}

// A board that starts to announce its sensors is believed then.
func TestABoardIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		answers := p.console
		p.console = func(c string) string {
			if c == "sensors" {
				return c
			}
			return answers(c)
		}
		b := newBench(t, []*puppet{p})
		offered := func() (out []nodecore.Characteristics) {
			var d devices.Device
			if err := b.api.Get(t.Context(), client.ObjectKey{Namespace: "fluidos", Name: p.device()}, &d); err != nil {
				t.Fatal(err)
			}
			decodeAnnotation(t, d.Annotations[devices.AnnotationSensors], &out)
			return out
		}
		if got := offered(); len(got) != 2 || got[0].Manufacturer == "" {
			t.Errorf("offered %+v", got)
		}
		p.air.mu.Lock()
		p.console = answers
		p.air.mu.Unlock()
		b.pass(2 * time.Minute)
		if got := offered(); len(got) != 2 || got[0].Manufacturer != "" {
			t.Errorf("offered %+v", got)
		}
	})
}

func TestHealthIsToldAndReported(t *testing.T) {
	const half = 500 * time.Millisecond
	// apart streams two temperatures that move, far from each other, with other values.
	apart := func(b *bench, p *puppet, d time.Duration, values map[string]float64) {
		for i := range int(d / half) {
			v := map[string]float64{bluest.Temperature: 20, bluest.Temperature2: 30 + float64(i%2)}
			maps.Copy(v, values)
			p.stream(b, half, v)
		}
	}
	for _, tt := range []struct {
		name   string
		befall func(b *bench, p *puppet)
		events []string
		states []string
		// problem has the reasons that the Device names at last.
		problem []string
	}{
		{"nothing", func(b *bench, p *puppet) { p.stream(b, 30*time.Second, nil) }, nil, []string{"online"}, nil},
		{"silence, and its end", func(b *bench, p *puppet) {
			b.pass(11 * time.Second)
			p.stream(b, time.Second, nil)
		}, []string{"BoardRecovered x1", "BoardSilent x1"}, []string{"online", "unhealthy", "online"}, nil},
		{"silence", func(b *bench, p *puppet) { b.pass(time.Minute) }, []string{"BoardSilent x1"}, []string{"online", "unhealthy"}, []string{"BoardSilent"}},
		{"garbage, for ever", func(b *bench, p *puppet) {
			for range 30 {
				p.notify(p.feature().UUID(), []byte{1, 2, 3})
				b.pass(half)
			}
		}, []string{"GarbageFrames x1"}, []string{"online", "unhealthy"}, []string{"GarbageFrames"}},
		{"two faults at a time", func(b *bench, p *puppet) {
			apart(b, p, 15*time.Second, map[string]float64{bluest.Pressure: 1000})
		}, []string{"ReadingsDisagree x1", "ValueStuck x1"}, []string{"online", "unhealthy"}, []string{"ValueStuck", "ReadingsDisagree"}},
		{"two faults, and the end of one", func(b *bench, p *puppet) {
			apart(b, p, 15*time.Second, map[string]float64{bluest.Pressure: 1000})
			apart(b, p, 5*time.Second, nil)
		}, []string{"ReadingsDisagree x1", "ValueStuck x1"}, []string{"online", "unhealthy"}, []string{"ReadingsDisagree"}},
		{"out of range while a part is stuck", func(b *bench, p *puppet) {
			p.stream(b, 15*time.Second, map[string]float64{bluest.Pressure: 1000})
			p.drop("supervision timeout", true)
			b.pass(20 * time.Second)
		}, []string{"BoardLost x1", "ValueStuck x1"}, []string{"online", "unhealthy", "offline"}, []string{"BoardLost", "ValueStuck"}},
		{"a stuck part", func(b *bench, p *puppet) {
			p.stream(b, 15*time.Second, map[string]float64{bluest.Pressure: 1000})
		}, []string{"ValueStuck x1"}, []string{"online", "unhealthy"}, []string{"ValueStuck"}},
		{"readings that disagree", func(b *bench, p *puppet) {
			p.stream(b, 5*time.Second, map[string]float64{bluest.Temperature: 20, bluest.Temperature2: 30})
		}, []string{"ReadingsDisagree x1"}, []string{"online", "unhealthy"}, []string{"ReadingsDisagree"}},
		{"garbage", func(b *bench, p *puppet) {
			for range 7 {
				p.notify(p.feature().UUID(), []byte{1, 2, 3})
				b.pass(half)
			}
			p.stream(b, 5*time.Second, nil)
		}, []string{"BoardRecovered x1", "GarbageFrames x1"}, []string{"online", "unhealthy", "online"}, nil},
		{"a low battery", func(b *bench, p *puppet) {
			p.send(bluest.Battery, map[string]float64{bluest.Level: 5, bluest.Status: 0})
			p.stream(b, 5*time.Second, nil)
		}, []string{"BatteryLow x1"}, []string{"online"}, nil},
		{"no battery at all", func(b *bench, p *puppet) {
			p.send(bluest.Battery, map[string]float64{bluest.Level: 0, bluest.Status: 2})
			p.stream(b, 5*time.Second, nil)
		}, nil, []string{"online"}, nil},
		{"a restart without a word", func(b *bench, p *puppet) {
			p.booted = time.Now()
			p.stream(b, 5*time.Second, nil)
		}, []string{"BoardRestarted x1"}, []string{"online"}, nil},
		{"a reboot", func(b *bench, p *puppet) {
			p.drop("the board is gone: reboot", true)
			p.booted = time.Now()
			b.pass(2 * time.Second)
			p.appear()
			b.pass(time.Second)
			p.stream(b, 5*time.Second, nil)
		}, []string{"BoardRestarted x1"}, []string{"online"}, nil},
		{"a connection that is lost and taken up again", func(b *bench, p *puppet) {
			p.drop("supervision timeout", false)
			b.pass(2 * time.Second)
			p.stream(b, 10*time.Second, nil)
		}, nil, []string{"online"}, nil},
		{"out of range", func(b *bench, p *puppet) {
			p.drop("supervision timeout", true)
			b.pass(20 * time.Second)
		}, []string{"BoardLost x1"}, []string{"online", "offline"}, []string{"BoardLost"}},
		{"out of range, and back", func(b *bench, p *puppet) {
			p.drop("supervision timeout", true)
			b.pass(20 * time.Second)
			p.appear()
			b.pass(time.Second)
			p.stream(b, 5*time.Second, nil)
		}, []string{"BoardLost x1", "BoardRecovered x1"}, []string{"online", "offline", "online"}, nil},
		{"out of range three times within a minute", func(b *bench, p *puppet) {
			for range 3 {
				p.drop("supervision timeout", true)
				b.pass(6 * time.Second)
				p.appear()
				b.pass(time.Second)
				p.stream(b, 5*time.Second, nil)
			}
			b.pass(5 * time.Second)
		}, []string{"BoardLost x3", "BoardRecovered x3"}, []string{"online", "offline", "online", "offline", "online", "offline", "online"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPuppet(t, macBX1, "STWINKT1B", bluest.EnvironmentalKT1B)
				other := newPuppet(t, macOther, "STWINBX1", bluest.EnvironmentalBX1)
				b := newBench(t, []*puppet{p, other})
				b.take(p, "")
				b.take(other, "")
				p.stream(b, 3*time.Second, nil)
				tt.befall(b, p)
				b.want(p, tt.events, tt.states...)
				b.wantProblem("at last", p, tt.problem...)
				if got := b.states(other); len(got) > 0 && got[0] != "unhealthy" { // it says nothing at all
					t.Errorf("states of the other board: %q", got)
				}
			})
		})
	}
}

// A board that another node serves is not lost, and nothing is said of it here.
func TestABoardThatMovesIsNotLost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		away   bool // the API server
		moved  func(b *bench, p *puppet)
		events []string
		states []string
		knows  bool
	}{
		{"its Device says so", false, func(b *bench, p *puppet) { b.move(p) }, nil, []string{"online"}, false},
		{"its Device is gone", false, func(b *bench, p *puppet) { b.delete(p) }, nil, []string{"online"}, false},
		{"the edge runtime says so", true, func(b *bench, p *puppet) { b.Removed("fluidos", p.device()) }, nil, []string{"online"}, false},
		{"it says so late", false, func(b *bench, p *puppet) {
			b.pass(20 * time.Second) // heard with a connection elsewhere
			b.move(p)
		}, nil, []string{"online"}, false},
		{"somebody who is no mapper took it", false, func(*bench, *puppet) {}, []string{"BoardLost x1"}, []string{"online", "offline"}, true},
		{"nobody knows", true, func(*bench, *puppet) {}, []string{"BoardLost x1"}, []string{"online", "offline"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
				b := newBench(t, []*puppet{p})
				b.take(p, "")
				p.stream(b, 3*time.Second, nil)
				b.setAPIAway(tt.away)
				p.leave()
				b.pass(time.Second)
				tt.moved(b, p)
				b.pass(time.Minute)
				b.setAPIAway(false)
				b.pass(time.Minute)
				b.want(p, tt.events, tt.states...)
				if got := b.Knows(p.device()); got != tt.knows {
					t.Errorf("knows the board: %v", got)
				}
				// And back.
				p.appear()
				b.pass(time.Second)
				p.stream(b, time.Second, nil)
				b.take(p, "")
				if got := b.states(p); got[len(got)-1] != "online" {
					t.Errorf("states %q, back again", got)
				}
			})
		})
	}
}

// The Device says what speaks against its board: in the words of the Event, with or
// without an edge runtime, for as long as it does.
func TestProblemsAreNamedOnTheDevice(t *testing.T) {
	for _, edge := range []bool{true, false} {
		t.Run(fmt.Sprintf("edge runtime %v", edge), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
				b := newBenchWith(t, []*puppet{p}, edge)
				p.stream(b, 5*time.Second, nil)
				b.wantProblem("well", p)
				b.pass(10 * time.Second)
				const want = "BoardSilent: connected, but no frame for 10s of 00140000 (due every 500ms)"
				if got := b.problem(p); got != want {
					t.Errorf("problem %q, want %q", got, want)
				}
				b.pass(2 * time.Hour) // Events are gone by then
				if got := b.problem(p); got != want {
					t.Errorf("problem %q two hours later, want %q", got, want)
				}
				p.stream(b, time.Second, nil)
				b.wantProblem("well again", p)
			})
		})
	}
}

// However much there is to say, no reason is cut off.
func TestALongProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		b := newBench(t, []*puppet{p})
		p.stream(b, 15*time.Second, map[string]float64{bluest.Pressure: 1000})
		p.drop(strings.Repeat("why\n\x00 ", 1000), true)
		b.pass(20 * time.Second)
		b.wantProblem("lost while a part is stuck", p, "BoardLost", "ValueStuck")
		got := b.problem(p)
		if len(got) > devices.MaxProblem || got != devices.Printable(got, devices.MaxProblem) || !strings.Contains(got, "why why") {
			t.Errorf("%d bytes: %q", len(got), got)
		}
	})
}

// What an earlier mapper wrote stays until this one knows better.
func TestProblemsOverARestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(b *bench, p *puppet)
		while  func(b *bench, p *puppet) // no mapper runs
		after  func(b *bench, p *puppet)
		want   []string
	}{
		{"silent, and well again", nil, nil, func(b *bench, p *puppet) { p.stream(b, time.Second, nil) }, nil},
		{"silent, and still so", nil, nil, func(b *bench, p *puppet) { b.pass(30 * time.Second) }, []string{"BoardSilent"}},
		{"silent, and now garbage", nil, nil, func(b *bench, p *puppet) {
			for range 10 {
				p.notify(p.feature().UUID(), []byte{1, 2, 3})
				b.pass(500 * time.Millisecond)
			}
		}, []string{"GarbageFrames"}},
		{"silent, and gone", nil, func(_ *bench, p *puppet) { p.drop("gone", true) }, func(b *bench, p *puppet) {
			b.take(p, "")
			b.wantProblem("as nobody knows better", p, "BoardSilent")
			b.pass(time.Minute)
		}, []string{"BoardLost"}},
		{"lost, and back", func(b *bench, p *puppet) {
			p.drop("gone", true)
			b.pass(time.Minute)
		}, func(_ *bench, p *puppet) { p.appear() }, func(b *bench, p *puppet) { p.stream(b, time.Second, nil) }, nil},
		{"silent, and of another node meanwhile", nil, func(b *bench, p *puppet) {
			p.leave()
			b.move(p)
		}, func(b *bench, p *puppet) { b.pass(2 * time.Minute) }, []string{"BoardSilent"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
				b := newBench(t, []*puppet{p})
				b.take(p, "")
				p.stream(b, 3*time.Second, nil)
				b.pass(15 * time.Second)
				b.wantProblem("silent", p, "BoardSilent")
				if tt.before != nil {
					tt.before(b, p)
				}
				before := b.problem(p)
				b.stop()
				if tt.while != nil {
					tt.while(b, p)
				}
				b.start()
				if got := b.problem(p); got != before || got == "" {
					t.Errorf("problem %q after the start, before %q", got, before)
				}
				tt.after(b, p)
				b.wantProblem("after the restart", p, tt.want...)
			})
		})
	}
}

// A board that comes from another node brings what was wrong with it there, until it
// is heard here.
func TestAProblemFromAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		p.gone = true
		b := newBench(t, []*puppet{p})
		theirs := &devices.Device{ObjectMeta: objectMeta(p.device()), Spec: devices.DeviceSpec{NodeName: "edge-2"}}
		theirs.Annotations = map[string]string{devices.AnnotationProblem: "BoardLost: of edge-2"}
		if err := b.api.Create(t.Context(), theirs); err != nil {
			t.Fatal(err)
		}
		b.pass(time.Minute)
		b.wantProblem("not heard here", p, "BoardLost")
		p.appear()
		b.pass(time.Second)
		p.stream(b, 5*time.Second, nil)
		b.wantProblem("heard here", p)
	})
}

// A board that is another node's costs no more requests, whatever was wrong with it here.
func TestAProblemThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		b := newBench(t, []*puppet{p})
		b.take(p, "")
		p.stream(b, 15*time.Second, map[string]float64{bluest.Pressure: 1000})
		b.wantProblem("here", p, "ValueStuck")
		p.leave()
		b.move(p)
		b.pass(5 * time.Minute)
		b.mu.Lock()
		before := b.gets
		b.mu.Unlock()
		b.pass(time.Hour)
		b.mu.Lock()
		after := b.gets
		b.mu.Unlock()
		if after != before {
			t.Errorf("%d requests in an hour for a board of another node", after-before)
		}
		b.wantProblem("there", p, "ValueStuck")
	})
}

// A board whose Device cannot be written to is served all the same, and its problem
// is named as soon as the API server is there.
func TestProblemsWaitForTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		b := newBench(t, []*puppet{p})
		p.stream(b, 3*time.Second, nil)
		b.setAPIAway(true)
		before := len(b.published)
		p.stream(b, time.Minute, map[string]float64{bluest.Pressure: 1000})
		if got := len(b.published) - before; got != 2*2*60 {
			t.Errorf("%d samples in a minute, want %d", got, 2*2*60)
		}
		b.setAPIAway(false)
		p.stream(b, 15*time.Second, map[string]float64{bluest.Pressure: 1000})
		b.wantProblem("when it is there", p, "ValueStuck")
	})
}

func (b *bench) move(p *puppet) {
	b.t.Helper()
	var d devices.Device
	if err := b.api.Get(b.t.Context(), client.ObjectKey{Namespace: "fluidos", Name: p.device()}, &d); err != nil {
		b.t.Fatal(err)
	}
	d.Spec.NodeName = "edge-2"
	if err := b.api.Update(b.t.Context(), &d); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) delete(p *puppet) {
	b.t.Helper()
	if err := b.api.Delete(b.t.Context(), &devices.Device{ObjectMeta: objectMeta(p.device())}); err != nil {
		b.t.Fatal(err)
	}
}

// A Device whose board is not there when the mapper starts is offline.
func TestADeviceWithoutItsBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		p.gone = true
		b := newBench(t, []*puppet{p})
		if err := b.api.Create(t.Context(), &devices.Device{ObjectMeta: objectMeta(p.device()), Spec: devices.DeviceSpec{NodeName: "edge-1"}}); err != nil {
			t.Fatal(err)
		}
		b.take(p, "")
		b.pass(29 * time.Second)
		b.want(p, nil)
		b.pass(2 * time.Second)
		b.want(p, []string{"BoardLost x1"}, "offline")
	})
}

var pressure = regexp.MustCompile(`ilps22qs-pressure=[0-9.]+/ `)

func TestPropertiesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		b := newBench(t, []*puppet{p})
		p.send(bluest.Battery, nil)
		p.stream(b, 3*time.Second, map[string]float64{bluest.Temperature: 23.4})
		if len(b.reports) > 0 {
			t.Errorf("reported without a Device: %q", b.reports)
		}
		b.take(p, "")
		all := "battery-level=80/ sampling-rate=2/ stts22h-temperature=%s/"
		if len(b.reports) != 2 || b.reports[0] != p.device()+" online" {
			t.Fatalf("reports %q", b.reports)
		}
		if got := b.reported(p, "stts22h-temperature") + " " + b.reported(p, "battery-level") + " " + b.reported(p, "sampling-rate"); got != "23.4/ 80/ 2/" {
			t.Errorf("reported %s", got)
		}
		began := time.Now()
		for range 30 {
			p.send(bluest.Battery, nil)
			p.stream(b, time.Second, map[string]float64{bluest.Temperature: 20 + time.Since(began).Seconds()/10})
		}
		// One request each report cycle, with a value of the last collect cycle.
		if len(b.reports) != 5 {
			t.Fatalf("%d reports, want 2 and 3 more: %q", len(b.reports), b.reports)
		}
		for i, r := range b.reports[2:] {
			celsius, _, _ := strings.Cut(strings.SplitN(r, "stts22h-temperature=", 2)[1], "/")
			if want := p.device() + " " + fmt.Sprintf(all, celsius); pressure.ReplaceAllString(r, "") != want {
				t.Errorf("report %q, want %q", r, want)
			}
			var v float64
			if _, err := fmt.Sscan(celsius, &v); err != nil || v < 20+float64(i+1)-0.2 || v > 20+float64(i+1) {
				t.Errorf("report %d has %s degC, want that of %d s", i, celsius, 10*(i+1))
			}
		}
	})
}

func TestDesiredSamplingRate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		desired string
		do      func(b *bench, p *puppet)
		writes  []string
		value   string // reported/desired
		events  []string
	}{
		{"a rate", "4", nil, []string{"00140000 4"}, "4/4", nil},
		{"the rate that it has", "2", nil, nil, "2/2", nil},
		{"no number", "fast", nil, nil, "2/fast", []string{"InvalidDesired x1"}},
		{"too low", "0.05", nil, nil, "2/0.05", []string{"InvalidDesired x1"}},
		{"too high", "101", nil, nil, "2/101", []string{"InvalidDesired x1"}},
		{"refused by the board", "50", func(b *bench, p *puppet) { p.refuse = func(float64) error { return errors.New("not now") } }, nil, "2/50", []string{"InvalidDesired x1"}},
		{"accepted by the board, and something else made of it", "50", func(b *bench, p *puppet) {
			answers := p.console
			p.console = func(c string) string {
				p.rate = min(p.rate, 20)
				return answers(c)
			}
		}, []string{"00140000 50"}, "20/50", []string{"InvalidDesired x1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
				if tt.do != nil {
					tt.do(nil, p)
				}
				b := newBench(t, []*puppet{p})
				b.take(p, "")
				p.stream(b, time.Second, nil)
				for range 3 { // told again and again
					b.take(p, tt.desired)
					p.stream(b, 5*time.Second, nil)
				}
				if diff := cmp.Diff(tt.writes, p.writes()); diff != "" {
					t.Errorf("written (-want +got):\n%s", diff)
				}
				if got := b.reported(p, "sampling-rate"); got != tt.value {
					t.Errorf("reported %s, want %s", got, tt.value)
				}
				b.want(p, tt.events, "online")
			})
		})
	}
}

// A rate that was set is set again whenever the board no longer has it, and a
// board whose rate changes is not called silent for it.
func TestADesiredRateStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		b := newBench(t, []*puppet{p})
		b.take(p, "0.1")
		p.stream(b, time.Minute, nil)
		forget := func() { // as a board that restarts
			p.air.mu.Lock()
			defer p.air.mu.Unlock()
			p.rate, p.booted = 2, time.Now()
		}
		for name, befall := range map[string]func(){
			"reconnection": func() { forget(); p.drop("supervision timeout", false) },
			"reboot":       func() { forget(); p.drop("reboot", true); b.pass(2 * time.Second); p.appear() },
			"restart without a word": func() {
				forget()
				p.send(p.feature(), nil)
			},
			"somebody else": func() { p.setRate(20) },
		} {
			p.writes()
			befall()
			b.pass(5 * time.Second)
			if diff := cmp.Diff([]string{"00140000 0.1"}, p.writes()); diff != "" {
				t.Errorf("%s: written (-want +got):\n%s", name, diff)
			}
			p.stream(b, time.Minute, nil)
		}
		if got := b.reported(p, "sampling-rate"); got != "0.1/0.1" {
			t.Errorf("reported %s", got)
		}
		for _, e := range b.events(p) {
			if !strings.HasPrefix(e, "BoardRestarted ") {
				t.Errorf("event %s", e)
			}
		}
		// A wish that is withdrawn leaves the board as it is.
		b.take(p, "")
		p.setRate(5)
		p.stream(b, 15*time.Second, nil)
		if got := b.reported(p, "sampling-rate") + " " + strings.Join(p.writes(), ","); got != "5/ " {
			t.Errorf("reported and written: %s", got)
		}
	})
}

func TestOnlyAllowedBoardsAreConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1), newPuppet(t, macOther, "STWINKT1B", bluest.EnvironmentalKT1B)
		b := newBench(t, []*puppet{good, bad}, func(o *mapper.Options) { o.Allow = []string{"STWINBX1"} })
		for range 5 {
			bad.appear()
			b.pass(time.Minute)
		}
		if good.connections != 1 || bad.connections != 0 {
			t.Errorf("%d and %d connections", good.connections, bad.connections)
		}
	})
}

// Everything but what goes to the edge runtime is the same without one.
func TestWithoutDMI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		b := newBenchWith(t, []*puppet{p}, false)
		p.stream(b, 3*time.Second, nil)
		b.pass(20 * time.Second)
		b.want(p, []string{"BoardSilent x1"})
		if len(b.published) != 12 {
			t.Errorf("%d samples, want 12", len(b.published))
		}
	})
}

func TestGatheredSamplesOfARunningMapper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, macBX1, "STWINBX1", bluest.EnvironmentalBX1)
		b := newBench(t, []*puppet{p}, func(o *mapper.Options) { o.Gather = 2 * time.Second })
		p.stream(b, 20*time.Second, nil)
		b.pass(2 * time.Second)
		seqs := map[string][]int64{}
		for _, s := range b.published {
			seqs[s.head] = append(seqs[s.head], s.seq)
		}
		for head := range maps.Keys(seqs) {
			if got := seqs[head]; len(got) != 40 || !slices.IsSorted(got) || got[39] != 40 {
				t.Errorf("%s: %v", head, got)
			}
		}
		if b.messages > 2*10 {
			t.Errorf("%d messages for 80 samples, want 20 at most", b.messages)
		}
	})
}
