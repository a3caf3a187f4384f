package boards

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	nodecore "github.com/fluidos-edge/testbed/controllers/api/nodecore/v1alpha1"
)

// State is a board as its control API shows it, as far as the scenarios need it.
type State struct {
	Name string `json:"name"`
	// Model, MAC with colons, and the 96-bit id in hex.
	Model string `json:"model"`
	MAC   string `json:"mac"`
	ID    string `json:"id"`
	// Nodes hear the board; ConnectedTo has its connection.
	Nodes       []string `json:"nodes"`
	ConnectedTo string   `json:"connectedTo"`
	Rate        float64  `json:"rate"`
	Offers      []string `json:"offers"`
	// Parts is what it declares of those that it offers.
	Parts  []nodecore.Characteristics `json:"parts"`
	Faults []Fault                    `json:"faults"`
}

// Fault that a board has.
type Fault struct {
	Kind  string    `json:"kind"`
	Part  string    `json:"part"`
	Since time.Time `json:"since"`
}

// Declared is what a part declares; what is nil stays.
type Declared struct {
	Latency     *string `json:"latency,omitempty"`
	LatencyUnit *string `json:"latencyUnit,omitempty"`
}

const (
	// maxAnswer bounds an answer: 10,000 boards take a tenth of it.
	maxAnswer   = 256 << 20
	callTimeout = 5 * time.Second
)

// Control is the control API of one boards process, on a unix socket.
type Control struct {
	socket string
	http   *http.Client
}

// NewControl dials nothing yet, and keeps nothing open between calls.
func NewControl(socket string) *Control {
	return &Control{socket: socket, http: &http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Boards are all boards of the process, as they are now.
func (c *Control) Boards(ctx context.Context) ([]State, error) {
	var all []State
	err := c.do(ctx, http.MethodGet, "", nil, &all)
	return all, err
}

// Declare changes what a part of a board declares.
func (c *Control) Declare(ctx context.Context, board, part string, d Declared) error {
	return c.do(ctx, http.MethodPatch, "/"+url.PathEscape(board), map[string]any{"parts": map[string]Declared{part: d}}, nil)
}

func (c *Control) do(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("boards: %w", err)
	}
	if in == nil {
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://boards/v1/boards"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("boards: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("boards at %s: %s %s: %s: %.200s", c.socket, method, path, resp.Status, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	return nil
}
