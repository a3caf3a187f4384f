package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/fluidos-edge/testbed/testbed/internal/backend"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/kube"
	"github.com/fluidos-edge/testbed/testbed/internal/state"
)

// Describe says what runs. The error is ErrAbsent if there is no such testbed.
func Describe(ctx context.Context, o Options) (*Status, error) {
	if err := o.normalize(); err != nil {
		return nil, err
	}
	rec, err := record(o.Name)
	if err != nil {
		return nil, err
	}
	b, err := newBackend(rec, o)
	if err != nil {
		return nil, err
	}
	return status(ctx, rec, b)
}

// Names of all testbeds of this user.
func Names() []string { return state.Names() }

func record(name string) (*state.Record, error) {
	if name == "" {
		name = DefaultName
	}
	rec, err := state.Load(name)
	if state.Absent(err) {
		return nil, fmt.Errorf("%w: %s", ErrAbsent, name)
	}
	return rec, err
}

func status(ctx context.Context, rec *state.Record, b backend.Backend) (*Status, error) {
	s := &Status{
		Name: rec.Name, Phase: PhaseReady, Backend: rec.Backend, Edge: rec.Edge,
		Clusters: []Cluster{}, Components: []Component{}, Phases: []PhaseTime{},
		Topology: rec.Topology, StateDir: state.Dir(rec.Name),
	}
	for _, p := range rec.Phases {
		s.Phases = append(s.Phases, PhaseTime(p))
	}
	now, err := b.Status(ctx)
	if err != nil {
		return nil, err
	}
	if !now.Running {
		s.Phase = PhaseDegraded
	}
	for _, c := range now.Components {
		s.Components = append(s.Components, Component(c))
		if !c.Ready && !c.External {
			s.Phase = PhaseDegraded
		}
	}
	slices.SortFunc(s.Components, func(a, b Component) int { return strings.Compare(a.Name, b.Name) })
	if !rec.Complete && s.Phase == PhaseReady {
		s.Phase = PhaseStarting
	}
	if rec.Topology == nil {
		return s, nil
	}
	layout := b.Layout()
	cluster := func(name, role string) {
		s.Clusters = append(s.Clusters, Cluster{Name: name, Role: role, Server: layout.Server(name),
			Ready: now.Ready[name], Kubeconfig: layout.AdminKubeconfig(name)})
		if !now.Ready[name] && s.Phase == PhaseReady {
			s.Phase = PhaseDegraded
		}
	}
	for _, c := range rec.Topology.Consumers {
		cluster(c.Name, "consumer")
		url, token, bucket := layout.InfluxDB(c.Name)
		a := ConsumerAccess{Name: c.Name, Journal: layout.SinkJournal(c.Name),
			InfluxDB: InfluxDBAccess{URL: url, Token: token, Org: "-", Bucket: bucket}}
		for _, e := range backend.Endpoints(c) {
			a.Endpoints = append(a.Endpoints, EndpointAccess{Name: e, URL: layout.Endpoint(c.Name, e)})
		}
		s.Consumers = append(s.Consumers, a)
	}
	for _, p := range rec.Topology.Providers {
		cluster(p.Name, "provider")
		a := ProviderAccess{Name: p.Name, Namespace: kube.Namespace, AdminKubeconfig: layout.AdminKubeconfig(p.Name),
			ConsumerKubeconfigs: map[string]string{}, BoardsJournal: layout.BoardsJournal(p.Name), BoardsControl: layout.BoardsSocket(p.Name)}
		for _, c := range rec.Topology.Consumers {
			a.ConsumerKubeconfigs[c.Name] = layout.ConsumerKubeconfig(c.Name, p.Name)
		}
		for _, n := range p.EdgeNodes {
			a.Mappers = append(a.Mappers, MapperAccess{Node: n.Name, Journal: layout.MapperJournal(p.Name, n.Name)})
		}
		s.Providers = append(s.Providers, a)
	}
	return s, nil
}

// KubeconfigNames lists what Kubeconfig knows in a testbed.
func KubeconfigNames(name string) []string {
	rec, err := record(name)
	if err != nil || rec.Topology == nil {
		return nil
	}
	var names []string
	for _, p := range rec.Topology.Providers {
		names = append(names, p.Name)
	}
	for _, c := range rec.Topology.Consumers {
		names = append(names, c.Name)
		for _, p := range rec.Topology.Providers {
			names = append(names, c.Name+"@"+p.Name)
		}
	}
	return names
}

// Kubeconfig returns a kubeconfig file: of a cluster ("provider-1"), with all
// rights; of a consumer at a provider ("consumer-1@provider-1"); or of a
// component ("provider-1/erm"), with that one's rights.
func Kubeconfig(name, which string) (string, error) {
	rec, err := record(name)
	if err != nil {
		return "", err
	}
	layout := backend.Layout{Rec: rec}
	known := KubeconfigNames(name)
	file := layout.AdminKubeconfig(which)
	if cluster, component, ok := strings.Cut(which, "/"); ok && slices.Contains(known, cluster) {
		component, _, _ = strings.Cut(component, "/")
		file = layout.ComponentKubeconfig(cluster, component)
		known = append(known, which)
	}
	if !slices.Contains(known, which) {
		return "", &InputError{Field: "kubeconfig", Value: which, Want: "one of " + strings.Join(known, ", ")}
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return "", &InputError{Field: "kubeconfig", Value: which, Want: "one of " + strings.Join(known, ", ") + "; it has no kubeconfig"}
	}
	return file, nil
}

// Kubectl returns the kubectl that fits the testbed's clusters.
func Kubectl() (string, error) {
	a, missing, err := gobuild.Locate(state.Cache())
	if err != nil {
		return "", err
	}
	if slices.Contains(missing, "kubectl") {
		if own, err := exec.LookPath("kubectl"); err == nil {
			return own, nil
		}
		return "", fmt.Errorf("kubectl is neither built nor in PATH; `testbed assets build` builds it")
	}
	return a.Path("kubectl"), nil
}

// Pins are the versions of what the embedded backend runs, by program.
func Pins() map[string]string { return gobuild.Versions() }

// BoardControl returns the control socket of the boards process that has a board.
func BoardControl(name, board string) (string, error) {
	rec, err := record(name)
	if err != nil {
		return "", err
	}
	if rec.Topology == nil {
		return "", fmt.Errorf("%w: %s", ErrAbsent, name)
	}
	var known []string
	for _, p := range rec.Topology.Providers {
		for _, b := range p.Boards {
			if b.Name == board {
				return backend.Layout{Rec: rec}.BoardsSocket(p.Name), nil
			}
			known = append(known, b.Name)
		}
	}
	return "", &InputError{Field: "board", Value: board, Want: "one of " + strings.Join(known, ", ")}
}

// BoardControls returns the control sockets of all boards processes, in the order of providers.
func BoardControls(name string) ([]string, error) {
	rec, err := record(name)
	if err != nil {
		return nil, err
	}
	if rec.Topology == nil {
		return nil, fmt.Errorf("%w: %s", ErrAbsent, name)
	}
	var sockets []string
	for _, p := range rec.Topology.Providers {
		sockets = append(sockets, backend.Layout{Rec: rec}.BoardsSocket(p.Name))
	}
	return sockets, nil
}

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
