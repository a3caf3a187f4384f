// Package accounts is what one replica of the relay tells the router about
// itself: JSON of GET /v1/accounts. Counts only grow until the relay restarts;
// Instance changes then.
package accounts

import "time"

// Accounts of one replica.
type Accounts struct {
	// Instance is new at every start of the relay.
	Instance string `json:"instance"`
	// Synced is true once the relay has seen all DataPaths and Flavors.
	Synced    bool       `json:"synced"`
	Sensors   []Sensor   `json:"sensors"`
	DataPaths []DataPath `json:"dataPaths"`
	// Refused counts requests that were not accepted, by reason:
	// capability, unknown, too-large, malformed, not-synced.
	Refused map[string]int64 `json:"refused,omitempty"`
}

// Sensor counts what arrived of one sensor, whether or not a DataPath selects it.
type Sensor struct {
	Namespace string `json:"namespace"`
	Device    string `json:"device"`
	Part      string `json:"part"`
	// Arrivals are requests, Samples the lines in them.
	Arrivals    int64     `json:"arrivals"`
	Samples     int64     `json:"samples"`
	LastArrival time.Time `json:"lastArrival"`
}

// DataPath is one DataPath that this replica serves.
type DataPath struct {
	Namespace  string     `json:"namespace"`
	Name       string     `json:"name"`
	UID        string     `json:"uid"`
	Generation int64      `json:"generation"`
	Matched    int        `json:"matched"`
	Endpoints  []Endpoint `json:"endpoints"`
}

// Endpoint counts samples, and says whether the endpoint takes them; see
// EndpointStatus of the DataPath for the terms.
type Endpoint struct {
	Name      string           `json:"name"`
	URL       string           `json:"url"`
	Accepted  int64            `json:"accepted"`
	Delivered int64            `json:"delivered"`
	Queued    int64            `json:"queued"`
	Dropped   map[string]int64 `json:"dropped,omitempty"`
	// LastDelivery is when the endpoint last took a whole batch that was posted to
	// URL for this generation of the DataPath; zero before the first.
	LastDelivery time.Time `json:"lastDelivery,omitzero"`
	// FailingSince is when the batch was first posted to URL that the endpoint has
	// not taken for 5 seconds, or when it first refused samples of a batch; zero
	// while neither is so. A refusal counts until a whole batch was taken, and for
	// at least 5 seconds.
	FailingSince time.Time `json:"failingSince,omitzero"`
	// Reason is why the endpoint is failing; "" while it is not.
	Reason string `json:"reason,omitempty"`
	// LastError is why the last attempt failed, "" after a success; while the
	// endpoint is failing, it is Reason as a phrase for a person. It holds no byte
	// of the endpoint's answer and nothing of URL.
	LastError string `json:"lastError,omitempty"`
}

// Reasons of a failing endpoint.
const (
	// ReasonInvalidURL means that nothing can be posted to the URL.
	ReasonInvalidURL = "EndpointInvalidURL"
	// ReasonHostNotFound means that the URL's host has no address.
	ReasonHostNotFound = "EndpointHostNotFound"
	// ReasonConnectionRefused means that nothing listens at the address.
	ReasonConnectionRefused = "EndpointConnectionRefused"
	// ReasonUnreachable means that there is no route to the address, or that the
	// connection broke.
	ReasonUnreachable = "EndpointUnreachable"
	// ReasonTLS means that there is no TLS connection, or not with this host.
	ReasonTLS = "EndpointTLSFailed"
	// ReasonNoAnswer means that the connection or the answer takes too long.
	ReasonNoAnswer = "EndpointNoAnswer"
	// ReasonRedirects means an answer 3xx, which is not followed.
	ReasonRedirects = "EndpointRedirects"
	// ReasonAnswersError means another answer than 2xx, or one that is not HTTP.
	ReasonAnswersError = "EndpointAnswersError"
	// ReasonRefusesSamples means that samples were dropped because the endpoint
	// answered 400, 413, 415 or 422 to them.
	ReasonRefusesSamples = "EndpointRefusesSamples"
)
