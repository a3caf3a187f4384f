package hollowedge

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"
)

// post sends body as it is, over a connection of its own. Any answer will do.
// Errors name no URL: a Rule's URL can hold a password and does hold a capability.
func post(ctx context.Context, to string, body []byte) error {
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ResponseHeaderTimeout: 300 * time.Second,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return withoutURL(err)
	}
	return resp.Body.Close()
}

// withoutURL strips what net/http puts around an error.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}
