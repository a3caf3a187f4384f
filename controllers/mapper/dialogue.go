package mapper

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
	"github.com/fluidos-edge/testbed/simulators/bluest"
	"github.com/fluidos-edge/testbed/simulators/radio"
)

// askAgain is how often a board is asked for its sensors that did not answer so
// far: what is offered of it meanwhile is what every board of its model has.
const askAgain = time.Minute

// reasonInvalidDesired of an Event: a desired value that the board cannot have.
const reasonInvalidDesired = "InvalidDesired"

// assemble reads the console to its end.
func (s *session) assemble(console <-chan radio.Notification) {
	var a assembler
	for n := range console {
		a.feed(n.Value, func(line string) {
			if line == lineChanged {
				notify(s.changed)
				return
			}
			select {
			case s.lines <- line:
			default: // nobody asked: a board may print what it likes
			}
		})
	}
}

// ask writes a command to the console and hands the lines that follow to answer,
// until it is content. Lines from before the command are not looked at.
func (s *session) ask(ctx context.Context, command string, answer func(line string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, consoleTimeout)
	defer cancel()
	for stale := true; stale; {
		select {
		case <-s.lines:
		default:
			stale = false
		}
	}
	if err := s.peer.Write(ctx, bluest.ConsoleUUID, []byte(command+"\r\n")); err != nil {
		return fmt.Errorf("write %q to the console: %w", command, err)
	}
	last, count := "", 0
	for {
		select {
		case line := <-s.lines:
			if answer(line) {
				return nil
			}
			last, count = line, count+1
		case <-ctx.Done():
			return fmt.Errorf("no answer to %q on the console, %d lines, the last %.40q: %w", command, count, last, ctx.Err())
		}
	}
}

// declare asks the board for its sensors and offers what it answers. ST's firmware
// does not know the command: it echoes it or says nothing. Then the parts of its
// model stand in, announced is false, and it is to be asked again some time.
func (s *session) declare(ctx context.Context) (announced bool, err error) {
	question := s.leaf.asks()
	for tries := 2; s.console && tries > 0; tries-- {
		var sensors []v1alpha1.Characteristics
		var bad error
		echo := false
		err := s.ask(ctx, commandSensors, func(line string) bool {
			if echo = strings.TrimSpace(line) == commandSensors; echo {
				return true
			}
			parsed, problems, err := parseSensors(line)
			if err != nil {
				if strings.HasPrefix(strings.TrimSpace(line), "[") {
					bad = err // it does know the command
				}
				return false
			}
			for _, p := range problems {
				s.log.Warn("sensor is not offered", "element", p)
			}
			sensors, announced = parsed, true
			return true
		})
		switch {
		case announced:
			s.announces.Store(true)
			d := declare(s.board, sensors)
			d.question = question
			s.offer(d)
			return true, nil
		case echo:
			tries = 0
		case bad != nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return false, errors.Join(err, bad)
		}
	}
	if s.announces.Load() {
		return false, fmt.Errorf("no answer to %q from a board that had answered before", commandSensors)
	}
	sensors := announcement(s.board, s.wasTuned())
	if len(sensors) == 0 {
		return false, fmt.Errorf("the board does not say what it has, and of a %s nothing is known", s.board.model)
	}
	if s.declared.Load() == nil {
		s.log.Info("the board does not announce sensors; those of its model are offered", "model", s.board.model)
	}
	d := declare(s.board, sensors)
	d.question = question
	s.offer(d)
	return false, nil
}

// wasTuned is the sampling rate that was set in this connection, 0 if none was.
func (s *session) wasTuned() float64 { return math.Float64frombits(s.tuned.Load()) }

// tune sets the board to the sampling rate that is desired, whenever it has
// another: after a wish, a reconnection or a restart. A value that the board does
// not take up is told to users and not tried again in this connection. Only what the
// board declares when it is asked after the write says whether it has taken it up.
func (s *session) tune(ctx context.Context) error {
	var tried string // the value that was written last
	settled := false // the board had it afterwards
	var asked uint64 // questions of the board when it was written
	for {
		s.leaf.mu.Lock()
		desired, wished := s.leaf.shadow.desired(propertyRate)
		if !wished {
			s.leaf.told = ""
		}
		s.leaf.mu.Unlock()
		answered := s.declared.Load().question > asked
		hz, err := parseRate(desired)
		mask, has := s.board.rateFeature()
		switch {
		case !wished:
			tried, settled = "", false
		case err != nil:
			s.leaf.refuse(desired, err.Error())
		case !has || !s.board.config:
			s.leaf.refuse(desired, "the board's rate cannot be set")
		case sameRate(hz, s.rate()) && (s.announces.Load() || tried == desired):
			tried, settled = desired, true
		case tried == desired && !settled && !answered:
		case tried == desired && !settled:
			s.leaf.refuse(desired, "the board stays at "+number(s.rate())+" Hz")
		default:
			tried, settled = desired, false
			if err := s.setRate(ctx, mask, hz); err != nil {
				if ctx.Err() != nil || s.peer.Err() != nil || errors.Is(err, radio.ErrDisconnected) {
					return err
				}
				s.leaf.refuse(desired, err.Error())
			} else {
				s.log.Info("sampling rate set", "hz", hz)
				asked = s.leaf.questions()
				notify(s.changed) // and see whether the board has it
			}
		}
		select {
		case <-s.leaf.wished:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) setRate(ctx context.Context, feature bluest.Mask, hz float64) error {
	ctx, cancel := context.WithTimeout(ctx, gattTimeout)
	defer cancel()
	c, err := bluest.RateCommand(feature, hz)
	if err != nil {
		return err
	}
	if err := s.peer.Write(ctx, bluest.ConfigUUID, c.Encode()); err != nil {
		return err
	}
	s.tuned.Store(math.Float64bits(hz))
	return nil
}

// parseRate reads a desired sampling rate.
func parseRate(text string) (float64, error) {
	hz, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || !(hz >= minRate && hz <= maxRate) {
		return 0, fmt.Errorf("want a number of Hz, %v to %v", minRate, maxRate)
	}
	return hz, nil
}

// sameRate within the step in which rates are set.
func sameRate(a, b float64) bool { return math.Round(10*a) == math.Round(10*b) }
