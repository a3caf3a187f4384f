package process_test

import (
	"encoding/pem"
	"os"
	"testing"

	"github.com/fluidos-edge/testbed/testbed/internal/process"
)

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestParseStat(t *testing.T) {
	tail := " 4321 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10"
	for _, tc := range []struct {
		in     string
		start  string
		parent int
		zombie bool
		bad    bool
	}{
		{in: "12 (etcd) S" + tail, start: "987654", parent: 4321},
		{in: "12 (a) b) (c) Z" + tail, start: "987654", parent: 4321, zombie: true},
		{in: "12 (etcd) S 1 2 3", bad: true},
		{in: "12 etcd S" + tail, bad: true},
		{in: "12 (etcd) S x" + tail, bad: true},
		{in: "", bad: true},
	} {
		start, parent, zombie, err := process.ParseStat(tc.in)
		if (err != nil) != tc.bad || err == nil && (start != tc.start || parent != tc.parent || zombie != tc.zombie) {
			t.Errorf("%q: %q %d %t %v", tc.in, start, parent, zombie, err)
		}
	}
	if _, parent, zombie, err := statOf(os.Getpid()); err != nil || parent != os.Getppid() || zombie {
		t.Errorf("own: parent %d, zombie %t, %v", parent, zombie, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("12 (etcd) S 4321 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 10")
	f.Add("12 (a) b) (c) Z 1 2")
	f.Add(")")
	f.Fuzz(func(t *testing.T, s string) {
		if start, _, _, err := process.ParseStat(s); err == nil && start == "" {
			t.Error("a process without a start time")
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"id":"x","order":1,"spec":{"name":"c/one","path":"/bin/true","probe":{"url":"http://127.0.0.1:1/readyz","CAFile":"/x"}},"pid":12,"start":"7"}`))
	f.Add([]byte(`{"id":"x","spec":{"name":"c/one","external":true,"probe":{"tcp":"127.0.0.1:1"}}}`))
	f.Add([]byte(`{"id":"x","order":-1,"spec":{"name":"../x"}}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := process.DecodeRecord(b)
		if err == nil && (s.Name == "" || !s.External && (s.Path == "" || s.Path[0] != '/')) {
			t.Errorf("nothing could be started from %+v", s)
		}
	})
}
