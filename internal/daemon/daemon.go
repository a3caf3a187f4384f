// Package daemon is the process around a component: flags, logging, signals and
// the health listener. A component's main names its options and its Run, and
// nothing else. Exit codes: 0 stopped by SIGINT or SIGTERM, 1 failed, 2 bad
// usage.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are a component's settings, filled in from flags.
type Options interface {
	// AddFlags declares one flag for each setting.
	AddFlags(*flag.FlagSet)
}

// Run is a component. It blocks until ctx ends (and then returns nil) or it
// cannot go on. ready may be called any number of times: nil means ready,
// an error says why not (yet).
type Run func(ctx context.Context, log *slog.Logger, ready func(error)) error

// Main runs a component as this process. It does not return.
func Main(name string, opts Options, run Run) {
	os.Exit(Exec(context.Background(), name, os.Args[1:], os.Stderr, opts, run))
}

// Exec is Main with everything given; it returns the exit code.
func Exec(ctx context.Context, name string, args []string, stderr io.Writer, opts Options, run Run) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	health := fs.String("health", "", "`address` to serve /healthz, /readyz and /metrics on, loopback; empty serves none")
	verbose := fs.Bool("v", false, "log debug messages too")
	opts.AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "%s: unexpected argument %q; every setting is a flag\n", name, fs.Arg(0))
		return 2
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	h := &state{reason: errors.New("starting")}
	if *health != "" {
		l, err := net.Listen("tcp", *health)
		if err != nil {
			log.Error("health listener", "err", err)
			return 1
		}
		srv := &http.Server{Handler: h.handler(), ReadHeaderTimeout: 5 * time.Second}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
	}
	if err := run(ctx, log, h.set); err != nil && !errors.Is(err, context.Canceled) {
		log.Error(name+" stopped", "err", err)
		return 1
	}
	return 0
}

// state is a component's readiness.
type state struct {
	mu     sync.Mutex
	reason error
}

func (s *state) set(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = reason
}

func (s *state) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		reason := s.reason
		s.mu.Unlock()
		if reason != nil {
			http.Error(w, reason.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.Handler())
	return mux
}
