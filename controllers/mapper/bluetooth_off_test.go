//go:build !bluetooth

package mapper_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/fluidos-edge/testbed/controllers/mapper"
)

func TestWithoutBluetoothARealAdapterIsRefused(t *testing.T) {
	err := mapper.Run(t.Context(), slog.New(slog.DiscardHandler), func(error) {}, mapper.Options{
		Node: "edge-1", Namespace: "fluidos", Radio: "bluetooth:hci0", MQTT: "tcp://127.0.0.1:1883", Kubeconfig: "/nonexistent",
	})
	if err == nil || !strings.Contains(err.Error(), "`go build -tags bluetooth ./cmd/mapper`") {
		t.Errorf("error %v", err)
	}
}
