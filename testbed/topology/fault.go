package topology

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// minEvery keeps a repeated fault from being all that a process does.
const minEvery = Duration(time.Second)

// Check judges a fault of a board of a model. The error names the first field that
// is wrong, its value and what would be right.
func (f Fault) Check(model string) error {
	v := &validator{has: func(*field.Path) bool { return false }}
	v.fault(nil, &f, []string{model})
	if len(v.errs) == 0 {
		return nil
	}
	e := v.errs[0]
	if value := show(e.BadValue); value != "" {
		return fmt.Errorf("%s: value %q: want %s", e.Field, value, e.Detail)
	}
	return errors.New(e.Field + ": want " + e.Detail)
}

// fault of a board of one of some models.
func (v *validator) fault(at *field.Path, f *Fault, models []string) {
	child := func(name string) *field.Path {
		if at == nil {
			return field.NewPath(name)
		}
		return at.Child(name)
	}
	if !slices.Contains(FaultKinds, f.Kind) {
		v.want(child("kind"), f.Kind, "one of %s%s", strings.Join(FaultKinds, ", "), nearest(f.Kind, FaultKinds))
		return // what else is right depends on it
	}
	switch part := child("part"); {
	case f.Kind != FaultStuck && f.Kind != FaultDrift:
		v.none(part, f.Part, f.Part != "", f.Kind, "the kinds stuck and drift have one")
	case f.Part != "" || v.has(part):
		if known := partsOfAll(models); len(known) > 0 && !slices.Contains(known, f.Part) {
			v.want(part, f.Part, "a part of %s: %s%s, or no field part for every part",
				strings.Join(models, " and "), strings.Join(known, ", "), nearest(f.Part, known))
		}
	}
	switch slope := child("slope"); {
	case f.Kind != FaultDrift:
		v.none(slope, f.Slope, f.Slope != 0, f.Kind, "the kind drift has one")
	case math.IsNaN(f.Slope) || math.IsInf(f.Slope, 0) || f.Slope == 0 && v.has(slope):
		v.want(slope, f.Slope, "a number other than 0, in the unit of the reading a minute")
	}
	switch of := child("of"); {
	case f.Kind != FaultClone:
		v.none(of, f.Of, f.Of != "", f.Kind, "the kind clone has one")
	case f.Of == "":
		v.want(of, nil, "the board whose id the clone carries")
	}
	switch during := child("for"); {
	case f.Kind == FaultReboot:
		v.none(during, time.Duration(f.For), f.For != 0, f.Kind, "a reboot takes as long as it takes")
	case f.For < 0:
		v.want(during, time.Duration(f.For), "at least 0s, which is until it is cleared")
	}
}

// none reports a field that a kind of fault does not have.
func (v *validator) none(p *field.Path, value any, set bool, kind, why string) {
	if set || v.has(p) {
		v.want(p, value, "no such field for a fault of kind %s: %s", kind, why)
	}
}

// partsOfAll are the parts that every one of some models has; a model that is not
// known does not count.
func partsOfAll(models []string) []string {
	var parts []string
	for i, m := range models {
		if i == 0 {
			parts = partsOf(m)
		}
		parts = slices.DeleteFunc(parts, func(p string) bool { return table[m] != nil && !slices.Contains(partsOf(m), p) })
	}
	return parts
}

// scheduled is a fault of one of a provider's boards.
func (v *validator) scheduled(at *field.Path, f *ScheduledFault, boards []Board) {
	var names, models []string
	for _, b := range boards {
		names = append(names, b.Name)
		if (f.Board == "" || f.Board == b.Name) && table[b.Model] != nil && !slices.Contains(models, b.Model) {
			models = append(models, b.Model)
		}
	}
	board := at.Child("board")
	switch {
	case len(boards) == 0:
		v.want(at, nil, "no faults, for the provider has no boards")
		return
	case (f.Board != "" || v.has(board)) && !slices.Contains(names, f.Board):
		v.want(board, f.Board, "one of the provider's boards: %s%s, or no field board for one drawn", some(names), nearest(f.Board, names))
	}
	v.fault(at, &f.Fault, models)
	if of := at.Child("of"); f.Kind == FaultClone && f.Of != "" {
		switch {
		case !slices.Contains(names, f.Of):
			v.want(of, f.Of, "one of the provider's boards: %s%s", some(names), nearest(f.Of, names))
		case f.Of == f.Board:
			v.want(of, f.Of, "another board than the one that becomes its clone")
		case len(boards) == 1:
			v.want(of, f.Of, "a provider with a second board, which becomes its clone")
		}
	}
	if f.At < 0 || f.At == 0 && v.has(at.Child("at")) {
		v.want(at.Child("at"), time.Duration(f.At), "a time after the start of the boards, such as 1s, or no field at for one drawn between %s and %s",
			time.Duration(defaultAtFirst), time.Duration(defaultAtLast))
	}
	if every := at.Child("every"); f.Every != 0 || v.has(every) {
		switch {
		case f.Every < minEvery:
			v.want(every, time.Duration(f.Every), "at least %s, or no field every for once", time.Duration(minEvery))
		case f.Every <= f.For:
			v.want(every, time.Duration(f.Every), "more than the %s for which it lasts", time.Duration(f.For))
		}
	}
}

// some of many names, for a message.
func some(names []string) string {
	const n = 12
	if len(names) > n {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
	}
	return strings.Join(names, ", ")
}
