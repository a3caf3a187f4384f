package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/fluidos-edge/testbed/testbed/internal/backend/embedded"
	"github.com/fluidos-edge/testbed/testbed/internal/gobuild"
	"github.com/fluidos-edge/testbed/testbed/internal/process"
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
	return status(ctx, rec)
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

func status(ctx context.Context, rec *state.Record) (*Status, error) {
	s := &Status{
		Name: rec.Name, Phase: PhaseReady, Backend: rec.Backend, Edge: rec.Edge,
		Clusters: []Cluster{}, Components: []Component{}, Phases: []PhaseTime{},
		Topology: rec.Topology, StateDir: state.Dir(rec.Name),
	}
	for _, p := range rec.Phases {
		s.Phases = append(s.Phases, PhaseTime(p))
	}
	ready := map[string]bool{}
	sup, err := process.Connect(ctx, dirs(rec))
	switch {
	case errors.Is(err, process.ErrNotRunning):
		s.Phase = PhaseDegraded
	case err != nil:
		return nil, err
	default:
		components, err := sup.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range components {
			ready[c.Name] = c.Ready
			s.Components = append(s.Components, Component{
				Name: c.Name, Ready: c.Ready, PID: c.PID, URL: c.Spec.URL, Log: c.Log, RSSBytes: c.RSSBytes, Reason: c.Reason,
				Args: c.Spec.Args, External: c.Spec.External, Restarts: c.Restarts,
			})
			if !c.Ready && !c.Spec.External {
				s.Phase = PhaseDegraded
			}
		}
	}
	slices.SortFunc(s.Components, func(a, b Component) int { return strings.Compare(a.Name, b.Name) })
	if !rec.Complete && s.Phase == PhaseReady {
		s.Phase = PhaseStarting
	}
	if rec.Topology == nil {
		return s, nil
	}
	access := embedded.NewAccess(rec)
	cluster := func(name, role string) {
		s.Clusters = append(s.Clusters, Cluster{Name: name, Role: role, Server: access.Server(name),
			Ready:      ready[name+"/kube-apiserver"] && ready[name+"/kube-controller-manager"] && ready[name+"/etcd"],
			Kubeconfig: access.AdminKubeconfig(name)})
	}
	for _, c := range rec.Topology.Consumers {
		cluster(c.Name, "consumer")
		url, token, bucket := access.InfluxDB(c.Name)
		a := ConsumerAccess{Name: c.Name, Journal: access.SinkJournal(c.Name),
			InfluxDB: InfluxDBAccess{URL: url, Token: token, Org: "-", Bucket: bucket}}
		for _, e := range access.Endpoints(c) {
			a.Endpoints = append(a.Endpoints, EndpointAccess{Name: e[0], URL: e[1]})
		}
		s.Consumers = append(s.Consumers, a)
	}
	for _, p := range rec.Topology.Providers {
		cluster(p.Name, "provider")
		a := ProviderAccess{Name: p.Name, Namespace: access.Namespace(), AdminKubeconfig: access.AdminKubeconfig(p.Name),
			ConsumerKubeconfigs: map[string]string{}}
		for _, c := range rec.Topology.Consumers {
			a.ConsumerKubeconfigs[c.Name] = access.ConsumerKubeconfig(c.Name, p.Name)
		}
		for _, n := range p.EdgeNodes {
			a.Mappers = append(a.Mappers, MapperAccess{Node: n.Name, Journal: access.MapperJournal(p.Name, n.Name)})
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
	access := embedded.NewAccess(rec)
	known := KubeconfigNames(name)
	file := access.AdminKubeconfig(which)
	if cluster, component, ok := strings.Cut(which, "/"); ok && slices.Contains(known, cluster) {
		component, _, _ = strings.Cut(component, "/")
		file = access.ComponentKubeconfig(cluster, component)
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
		return "", fmt.Errorf("kubectl is not built; `testbed assets build` builds it")
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
	var known []string
	for _, p := range rec.Topology.Providers {
		for _, b := range p.Boards {
			if b.Name == board {
				return embedded.NewAccess(rec).BoardsSocket(p.Name), nil
			}
			known = append(known, b.Name)
		}
	}
	return "", &InputError{Field: "board", Value: board, Want: "one of " + strings.Join(known, ", ")}
}

// BoardControls returns the control sockets of all boards processes.
func BoardControls(name string) ([]string, error) {
	rec, err := record(name)
	if err != nil {
		return nil, err
	}
	var sockets []string
	for _, p := range rec.Topology.Providers {
		sockets = append(sockets, embedded.NewAccess(rec).BoardsSocket(p.Name))
	}
	return sockets, nil
}

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
