package v1beta1_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/fluidos-edge/testbed/controllers/api/devices/v1beta1"
)

func TestPrintable(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"what a mapper writes", "ValueStuck: the same values of hts221", "ValueStuck: the same values of hts221"},
		{"other alphabets", "Gerät 温度 ±2 °C", "Gerät 温度 ±2 °C"},
		{"white space", "\t one \r\n two\u00a0three  ", "one two three"},
		{"control characters", "a\x00b\x1b[31mred\x7f", "a b [31mred"},
		{"text that runs backwards, and without width", "a\u202eb\u200bc\ufeff", "a b c"},
		{"invalid UTF-8", "a\xff\xfeb\xc3", "a b"},
		{"nothing that can be printed", "\x00\n\xff", ""},
		{"as long as it may be", strings.Repeat("x", 40), strings.Repeat("x", 40)},
		{"longer", strings.Repeat("x", 41), strings.Repeat("x", 37) + "..."},
		{"longer, cut after a space", strings.Repeat("x", 36) + " yyyyyyyy", strings.Repeat("x", 36) + "..."},
		{"longer, of characters of several bytes", strings.Repeat("温", 20), strings.Repeat("温", 12) + "..."},
	} {
		if got := v1beta1.Printable(c.text, 40); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := v1beta1.Printable("ab", 1); got != "" {
		t.Errorf("no room: %q", got)
	}
}

func FuzzPrintable(f *testing.F) {
	for _, text := range []string{"", "BoardLost: no connection", "a\x00\xff\u202e", strings.Repeat("温 ", 300)} {
		f.Add(text, v1beta1.MaxProblem)
	}
	f.Add("abc", 1)
	f.Fuzz(func(t *testing.T, text string, most int) {
		most = min(max(most, 0), 1<<16)
		got := v1beta1.Printable(text, most)
		if len(got) > most || !utf8.ValidString(got) || strings.TrimSpace(got) != got || strings.Contains(got, "  ") {
			t.Errorf("%q of %q", got, text)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q cannot be printed", got)
		}
		if again := v1beta1.Printable(got, most); again != got {
			t.Errorf("%q becomes %q", got, again)
		}
	})
}
