package gobuild

var (
	Estimate = estimate
	Free     = free
)

// KeyWith is the key of a set as if its pins, flags or platform were others.
func KeyWith(name string, change func(mod, sum *[]byte, args *[]string, platform *string)) string {
	for _, s := range append(Embedded.sets(), Node.sets()...) {
		if s.name != name {
			continue
		}
		mod, sum, err := s.pin()
		if err != nil {
			panic(err)
		}
		platform := "linux/amd64"
		change(&mod, &sum, &s.args, &platform)
		return s.keyOf(mod, sum, platform)
	}
	panic("no set " + name)
}

// Pin is a set's module, version, go.mod and build arguments.
func Pin(name string) (module, version, mod string, args []string) {
	for _, s := range append(Embedded.sets(), Node.sets()...) {
		if s.name == name {
			m, _, err := s.pin()
			if err != nil {
				panic(err)
			}
			return s.module, s.version, string(m), s.args
		}
	}
	panic("no set " + name)
}
