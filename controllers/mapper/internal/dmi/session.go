package dmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	api "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
)

const (
	// callTimeout is the deadline of every call of the edge runtime.
	callTimeout = 10 * time.Second
	// maxPause is the longest pause after a failure.
	maxPause = 10 * time.Second
	// resync is how often the mapper registers anew without a reason: a call that
	// the edge runtime could not make is made good by what it answers.
	resync = 5 * time.Minute
	// maxAnswer bounds what a registration answers, in bytes: each Device comes with
	// its model.
	maxAnswer = 16 << 20
)

// stayRegistered makes one session after the other until ctx ends.
func (a *Agent) stayRegistered(ctx context.Context) {
	wait := a.options.Pause
	var said string
	for {
		registered, err := a.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if registered {
			wait = a.options.Pause
		}
		if registered || said != err.Error() {
			a.options.Log.Warn("not registered with the edge runtime", "error", err)
		}
		said = err.Error()
		a.state.set(&a.state.session, err)
		pause(ctx, wait)
		wait = min(2*wait, maxPause)
	}
}

// session is one connection to the edge runtime: the mapper registers and reports
// until it is lost or of no use. It says whether the mapper was registered.
func (a *Agent) session(ctx context.Context) (registered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	raw, err := (&net.Dialer{Timeout: callTimeout}).DialContext(ctx, "unix", a.options.Edge)
	if err != nil {
		return false, fmt.Errorf("edge runtime: %w", err)
	}
	defer raw.Close()
	// A client that dialled again by itself would hide that the edge runtime was
	// started anew, so it is given this one connection.
	only := &closing{Conn: raw, closed: cancel}
	conn, err := grpc.NewClient("passthrough:///edge",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return only.take() }),
	)
	if err != nil {
		return false, fmt.Errorf("edge runtime at %s: %w", a.options.Edge, err)
	}
	defer conn.Close()
	edge := api.NewDeviceManagerServiceClient(conn)
	err = a.register(ctx, edge, true)
	registered = err == nil
	if registered {
		err = a.keepReporting(ctx, edge)
	}
	if ctx.Err() != nil {
		err = errors.New("connection lost")
	}
	return registered, fmt.Errorf("edge runtime at %s: %w", a.options.Edge, err)
}

// register the mapper, and take over the Devices and models that this answers.
func (a *Agent) register(ctx context.Context, edge api.DeviceManagerServiceClient, anew bool) error {
	for {
		wait := a.devices.reserve(time.Now())
		if wait <= 0 {
			break
		}
		if pause(ctx, wait); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	a.devices.registering()
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := edge.MapperRegister(callCtx, &api.MapperRegisterRequest{
		WithData: true,
		Mapper: &api.MapperInfo{
			// The edge runtime keeps a mapper under its name, and one that it kept under
			// another name would compete for the protocol.
			Name:       a.options.Protocol + "-" + a.options.Node,
			Version:    "v1",
			ApiVersion: "v1beta1",
			Protocol:   a.options.Protocol,
			Address:    []byte(a.options.Listen),
			State:      "ok",
		},
	})
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	var all []Device
	var models []string
	for _, d := range answer.GetDeviceList() {
		if device, model, ok := a.take(d); ok {
			all, models = append(all, device), append(models, model)
		}
	}
	n := a.devices.registered(all, models, answer.GetModelList(), anew)
	notify(a.events)
	if anew {
		a.options.Log.Info("registered with the edge runtime", "devices", n)
	}
	a.state.set(&a.state.session, nil)
	return nil
}

// keepReporting sends what is to be reported, and registers now and then, until ctx
// ends or a call says that the connection is of no use.
func (a *Agent) keepReporting(ctx context.Context, edge api.DeviceManagerServiceClient) error {
	renew := time.NewTicker(resync)
	defer renew.Stop()
	wait := a.options.Pause
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r, rest := a.devices.next(time.Now())
		if r == nil {
			stale := false
			select {
			case <-time.After(rest):
			case <-a.reports:
			case <-a.remade: // calls may have been missed
				stale = true
			case <-renew.C:
				stale = true
			case <-ctx.Done():
			}
			if stale {
				if err := a.register(ctx, edge, false); err != nil {
					return err
				}
			}
			continue
		}
		err := a.send(ctx, edge, r)
		switch {
		case err == nil:
			wait = a.options.Pause
		case refused(err):
			a.devices.back(r)
			a.options.Log.Debug("the edge runtime has too much to do", "error", err)
			pause(ctx, wait)
			wait = min(2*wait, maxPause)
		case lost(err):
			a.devices.back(r)
			return fmt.Errorf("report: %w", err)
		default:
			a.options.Log.Warn("the edge runtime does not take a report", "namespace", r.of.namespace, "name", r.of.name, "error", err)
		}
	}
}

func (a *Agent) send(ctx context.Context, edge api.DeviceManagerServiceClient, r *report) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if r.state != "" {
		_, err := edge.ReportDeviceStates(ctx, &api.ReportDeviceStatesRequest{
			DeviceNamespace: r.of.namespace, DeviceName: r.of.name, State: r.state,
		})
		return err
	}
	_, err := edge.ReportDeviceStatus(ctx, &api.ReportDeviceStatusRequest{
		DeviceNamespace: r.of.namespace, DeviceName: r.of.name,
		ReportedDevice: &api.DeviceStatus{Twins: a.devices.wire(r.of, r.twins), ReportToCloud: true},
	})
	return err
}

// refused is whether the edge runtime had too much to do: KubeEdge's says so in
// words only.
func refused(err error) bool {
	s := status.Convert(err)
	return s.Code() == codes.ResourceExhausted || s.Code() == codes.Unknown && strings.Contains(s.Message(), "too many request")
}

// lost is whether another call on the same connection would be of no use.
func lost(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	default:
		return false
	}
}

// closing is a connection that can be taken once and tells when it was closed.
type closing struct {
	net.Conn
	closed func()

	mu    sync.Mutex
	taken bool
}

func (c *closing) take() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		return nil, errors.New("connection lost")
	}
	c.taken = true
	return c, nil
}

func (c *closing) Close() error {
	c.closed()
	return c.Conn.Close()
}
