package devicetwin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection"

	dmi "github.com/fluidos-edge/testbed/controllers/api/dmi/v1beta1"
	"github.com/fluidos-edge/testbed/simulators/radio/socket"
)

// Open opens the node's socket, which only its owner may use, in a folder that
// exists. Who connects waits for Serve.
func (n *Node) Open(path string) error {
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return fmt.Errorf("socket %s: there is no folder %s", path, filepath.Dir(path))
	}
	var err error
	n.listener, err = socket.Listen(path)
	return err
}

// Serve serves the Device Mapper Interface until Close. It does not block.
func (n *Node) Serve() {
	n.serving.Go(func() {
		if err := n.server.Serve(n.listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			n.log.Error("device mapper interface ended", "err", err)
		}
	})
}

// Close takes the socket away, ends all connections and waits for the requests
// in them.
func (n *Node) Close() {
	n.server.Stop()
	_ = n.listener.Close() // an error says that the server has closed it already
	n.serving.Wait()
}

func (n *Node) register() {
	dmi.RegisterDeviceManagerServiceServer(n.server, &manager{node: n})
	reflection.Register(n.server)
}

// manager is what a mapper calls. Its errors are EdgeCore's to the letter, but
// for those that stand for its end.
type manager struct {
	dmi.UnimplementedDeviceManagerServiceServer
	node *Node
}

// allow counts a request in, unless it is one too many.
func (m *manager) allow() bool {
	if m.node.limiter.AllowN(m.node.clock.Now(), 1) {
		return true
	}
	m.node.owner.Refuse()
	return false
}

func (m *manager) MapperRegister(_ context.Context, in *dmi.MapperRegisterRequest) (*dmi.MapperRegisterResponse, error) {
	mapper := in.GetMapper()
	switch {
	case !m.allow():
		return nil, fmt.Errorf("fail to register mapper because of too many request: %s", mapper.GetName())
	case mapper == nil:
		return nil, errors.New("mapper is missing: EdgeCore would crash")
	case mapper.Protocol == "":
		return nil, fmt.Errorf("fail to register mapper %s because the protocol is nil", mapper.Name)
	case !in.WithData:
		m.node.log.Info("mapper registered without data, and will not be called", "mapper", mapper.Name, "protocol", mapper.Protocol)
		return &dmi.MapperRegisterResponse{}, nil
	}
	out := m.node.enrol(mapper.Protocol, string(mapper.Address))
	m.node.log.Info("mapper registered", "mapper", mapper.Name, "protocol", mapper.Protocol, "devices", len(out.DeviceList))
	return out, nil
}

func (m *manager) ReportDeviceStatus(_ context.Context, in *dmi.ReportDeviceStatusRequest) (*dmi.ReportDeviceStatusResponse, error) {
	if !m.allow() {
		return nil, fmt.Errorf("fail to report device status because of too many request: %s", in.DeviceName)
	}
	twins := in.GetReportedDevice().GetTwins()
	if len(twins) == 0 {
		return nil, errors.New("ReportDeviceStatusRequest does not have twin data")
	}
	for _, t := range twins {
		if t.GetObservedDesired() == nil || t.GetReported() == nil {
			return nil, fmt.Errorf("property %q of device %s lacks observedDesired or reported: EdgeCore would crash", t.GetPropertyName(), in.DeviceName)
		}
		m.node.reportTwin(key(in.DeviceNamespace, in.DeviceName), t)
	}
	return &dmi.ReportDeviceStatusResponse{}, nil
}

func (m *manager) ReportDeviceStates(_ context.Context, in *dmi.ReportDeviceStatesRequest) (*dmi.ReportDeviceStatesResponse, error) {
	switch {
	case !m.allow():
		return nil, fmt.Errorf("fail to report device states because of too many request: %s", in.DeviceName)
	case in.State == "" || in.DeviceName == "":
		return nil, errors.New("ReportDeviceStatesRequest is invalid data")
	}
	m.node.reportState(key(in.DeviceNamespace, in.DeviceName), in.State)
	return &dmi.ReportDeviceStatesResponse{}, nil
}

// callTimeout is how long a mapper has for an answer.
const callTimeout = 10 * time.Second

// call calls the mapper at a socket over a connection of its own.
func call(ctx context.Context, socket string, f func(context.Context, dmi.DeviceMapperServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:mapper",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return fmt.Errorf("mapper at %s: %w", socket, err)
	}
	defer conn.Close()
	if err := f(ctx, dmi.NewDeviceMapperServiceClient(conn)); err != nil {
		return fmt.Errorf("mapper at %s: %w", socket, err)
	}
	return nil
}
