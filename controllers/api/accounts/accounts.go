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

// Endpoint counts samples; see EndpointStatus of the DataPath for the terms.
type Endpoint struct {
	Name      string           `json:"name"`
	URL       string           `json:"url"`
	Accepted  int64            `json:"accepted"`
	Delivered int64            `json:"delivered"`
	Queued    int64            `json:"queued"`
	Dropped   map[string]int64 `json:"dropped,omitempty"`
	LastError string           `json:"lastError,omitempty"`
}
