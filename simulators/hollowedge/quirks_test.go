package hollowedge_test

import (
	"fmt"
	"testing"
)

func TestFirst(t *testing.T) {
	b := start(t)
	s := newSink(t, 204)
	b.addEndpoints("fluidos")
	b.add(rule("fluidos", "a", "edge-1", "sensor/a", s.URL+"/x?c=1"))
	b.publish("edge-1", [2]string{"fluidos/sensor/a", "hello"})
	fmt.Println(s.next())
}
