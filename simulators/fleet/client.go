package fleet

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

	"github.com/fluidos-edge/testbed/testbed/topology"
)

const maxAnswer = 256 << 20 // 10,000 boards are a tenth of it

// Client of the control API. An error about what was sent names the field.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient is for the API on a unix socket; nothing is dialled yet, and nothing
// is kept open between calls.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Boards are all boards of the process.
func (c *Client) Boards(ctx context.Context) ([]Board, error) {
	var all []Board
	err := c.do(ctx, http.MethodGet, "", nil, &all)
	return all, err
}

// Board is one of them.
func (c *Client) Board(ctx context.Context, name string) (Board, error) {
	return c.one(ctx, http.MethodGet, "/"+url.PathEscape(name), nil)
}

// Patch changes one and returns it as it is then.
func (c *Client) Patch(ctx context.Context, name string, p Patch) (Board, error) {
	return c.one(ctx, http.MethodPatch, "/"+url.PathEscape(name), p)
}

// Add puts a board on the air. What it leaves open gets its default, as in a
// topology file; it must have a model.
func (c *Client) Add(ctx context.Context, b topology.Board) (Board, error) {
	return c.one(ctx, http.MethodPost, "", b)
}

// Remove ends a board's connection and takes it off the air.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/"+url.PathEscape(name), nil, nil)
}

// Fault makes something go wrong with a board; it replaces a fault of the same kind.
func (c *Client) Fault(ctx context.Context, name string, f topology.Fault) (Board, error) {
	return c.one(ctx, http.MethodPost, "/"+url.PathEscape(name)+"/faults", f)
}

// Clear ends a board's fault of one kind, or all of its faults if kind is "".
func (c *Client) Clear(ctx context.Context, name, kind string) (Board, error) {
	path := "/" + url.PathEscape(name) + "/faults"
	if kind != "" {
		path += "?" + url.Values{"kind": {kind}}.Encode()
	}
	return c.one(ctx, http.MethodDelete, path, nil)
}

func (c *Client) one(ctx context.Context, method, path string, in any) (b Board, err error) {
	err = c.do(ctx, method, path, in, &b)
	return b, err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("boards: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://boards/v1/boards"+path, body)
	if err != nil {
		return fmt.Errorf("boards: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		var e struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(b, &e) != nil || e.Error == "" {
			e.Error = fmt.Sprintf("%s: %.200s", resp.Status, b)
		}
		return fmt.Errorf("boards: %s", e.Error)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("boards at %s: %w", c.socket, err)
	}
	return nil
}
