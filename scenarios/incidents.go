package scenarios

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fluidos-edge/testbed/scenarios/boards"
)

// Incident is something that happened to the testbed: a restart, a fault, a lost
// connection.
type Incident struct {
	// Time is when it happened or, of what lasts, when it began.
	Time time.Time `json:"time"`
	// Subject is a component, "<provider>/node <name>" or "board <name>".
	Subject string `json:"subject"`
	What    string `json:"what"`
}

func (i Incident) String() string {
	return i.Time.UTC().Format("15:04:05.000") + " " + i.Subject + " " + i.What
}

const (
	// incidentsDeadline bounds the look for them.
	incidentsDeadline = 15 * time.Second
	// maxIncidents that a result names.
	maxIncidents = 50
)

// incidents since a moment: components that restarted or do not run, edge nodes that
// were cut off, faults of boards. It says what could not be asked.
func (e *Env) incidents(ctx context.Context, since time.Time) []Incident {
	ctx, cancel := context.WithTimeout(ctx, incidentsDeadline)
	defer cancel()
	var out []Incident
	out = append(out, e.componentIncidents(ctx, since)...)
	for _, p := range e.Providers {
		out = append(out, nodeIncidents(ctx, p, since)...)
		out = append(out, e.boardIncidents(ctx, p)...)
	}
	events := e.events
	if e.session != nil && e.session.reader != nil {
		_ = e.session.reader.read() // or it has been said already
		events = append(slices.Clone(events), e.session.reader.events...)
	}
	for _, l := range events {
		if i, ok := eventIncident(l); ok && !l.Time.Before(since) {
			out = append(out, i)
		}
	}
	// Of one second the component comes first: what it causes is told by others, too.
	slices.SortStableFunc(out, func(a, b Incident) int { return a.Time.Truncate(time.Second).Compare(b.Time.Truncate(time.Second)) })
	out = slices.CompactFunc(out, func(a, b Incident) bool { return a.Subject == b.Subject && a.What == b.What })
	return out[:min(len(out), maxIncidents)]
}

func (e *Env) componentIncidents(ctx context.Context, since time.Time) []Incident {
	if e.Components == nil {
		return nil
	}
	all, err := e.Components(ctx)
	if err != nil {
		return []Incident{{Time: time.Now(), Subject: "testbed " + e.Testbed, What: "could not be asked what runs: " + err.Error()}}
	}
	var out []Incident
	for _, c := range all {
		switch {
		case !c.StartedAt.IsZero() && !c.StartedAt.Before(since.Truncate(time.Second)): // kubelet tells whole seconds
			what := "started anew"
			if c.Restarts > 0 {
				what = "restarted"
			}
			if c.LastEnd != "" {
				what += ": its last run " + c.LastEnd
			}
			out = append(out, Incident{Time: c.StartedAt, Subject: c.Name, What: what})
		case !c.Ready && !c.External:
			out = append(out, Incident{Time: time.Now(), Subject: c.Name, What: "is not ready: " + cmp.Or(firstLine(c.Reason), "no reason is known")})
		}
	}
	return out
}

// nodeIncidents are edge nodes that are not Ready, or have become so since.
func nodeIncidents(ctx context.Context, p Provider, since time.Time) []Incident {
	var list corev1.NodeList
	if err := p.Admin.List(ctx, &list); err != nil {
		return []Incident{{Time: time.Now(), Subject: p.Name, What: "could not be asked for its nodes: " + err.Error()}}
	}
	var out []Incident
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type != corev1.NodeReady {
				continue
			}
			who := p.Name + "/node " + n.Name
			switch {
			case c.Status != corev1.ConditionTrue:
				out = append(out, Incident{Time: c.LastTransitionTime.Time, Subject: who, What: "is cut off: " + c.Reason})
			case !c.LastTransitionTime.Time.Before(since.Truncate(time.Second)):
				out = append(out, Incident{Time: c.LastTransitionTime.Time, Subject: who, What: "was cut off, and is back"})
			}
		}
	}
	return out
}

// boardIncidents are faults that boards have now, whenever they began.
func (e *Env) boardIncidents(ctx context.Context, p Provider) []Incident {
	if p.Boards == nil {
		return nil
	}
	all, err := p.Boards.Boards(ctx)
	if err != nil {
		return []Incident{{Time: time.Now(), Subject: p.Name + "/boards", What: "cannot be asked: " + err.Error()}}
	}
	var out []Incident
	for _, b := range all {
		for _, f := range b.Faults {
			out = append(out, Incident{Time: f.Since, Subject: "board " + b.Name, What: "has fault " + strings.TrimSpace(f.Kind+" "+f.Part)})
		}
	}
	return out
}

// eventIncident is an event of a boards journal that can be the cause of a failure.
func eventIncident(l boards.Line) (Incident, bool) {
	i := Incident{Time: l.Time, Subject: "board " + l.Board}
	detail := l.Detail
	switch l.Kind {
	case boards.Started:
		i.Subject, i.What = "boards", "started anew"
	case boards.Disconnected:
		i.What = strings.TrimSuffix("lost its connection: "+detail, ": ")
	case boards.FaultBegan:
		i.What = "has fault " + strings.ReplaceAll(detail, "part=", "")
	case boards.FaultEnded:
		i.What = "fault ended: " + strings.ReplaceAll(detail, "part=", "")
	case boards.Added:
		i.What = "was added"
	case boards.Removed:
		i.What = "was removed"
	default:
		return i, false
	}
	return i, true
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
