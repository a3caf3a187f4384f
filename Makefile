# One command brings the testbed up and proves it: make testbed.
# BACKEND, EDGE, NAME and JUNIT (a file for the results) pass through:
# make testbed BACKEND=kind EDGE=kubeedge NAME=mine JUNIT=results.xml.
BACKEND ?= auto
EDGE    ?= auto
NAME    ?= default

# Programs that need no C library run in any container; tests share what is compiled.
export CGO_ENABLED = 0

STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT  = go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
VERSION     = $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     = -X github.com/fluidos-edge/testbed/internal/cli.Version=$(VERSION)

.PHONY: testbed
testbed: build ## bring the testbed up and run all scenarios
	bin/testbed up --demo --strict $(if $(JUNIT),--junit '$(JUNIT)') --name $(NAME) --backend $(BACKEND) --edge $(EDGE)

.PHONY: down
down: build ## remove the testbed
	bin/testbed down --name $(NAME)

.PHONY: build
build: ## build all programs into bin/
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: test
test: build ## run every test that needs no container engine
	TESTBED_ASSETS=$$(bin/testbed assets build) && export TESTBED_ASSETS && \
	go test -timeout 30m $$(go list ./... | grep -v '/scenarios$$') && \
	go test -timeout 30m ./scenarios

.PHONY: bluetooth
bluetooth: ## compile and test the mapper's real Bluetooth adapter, without hardware
	go vet -tags bluetooth ./controllers/mapper/... ./cmd/mapper
	go test -tags bluetooth ./controllers/mapper/bluetooth

.PHONY: fuzz
fuzz: ## fuzz every decoder of outside bytes for FUZZTIME each
	hack/fuzz.sh $(or $(FUZZTIME),10s)

.PHONY: bench
bench: build ## measure against a bare peer, into bench.json; BENCH passes flags (BENCH='-row kind-up -n 5')
	bin/bench $(BENCH)

.PHONY: generate
generate: ## write deep copies, definitions and rights from markers
	hack/generate.sh

.PHONY: verify
verify: ## fail if generated files or formatting are not up to date
	hack/verify.sh

.PHONY: lint
lint: ## run linters
	go vet ./...
	$(STATICCHECK) ./...
	$(ACTIONLINT)

.PHONY: help
help: ## list what make can do
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
