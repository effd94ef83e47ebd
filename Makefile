# Muster's tasks. `make test` and `make check` need Go alone; what else they use
# they fetch through Go's module proxy or install (see .ci/install).
SHELL   := /bin/bash
GO      ?= go
BIN     := bin
PKGS    := ./...
SEED    ?= 1
TIME    ?= 10m
FUZZTIME ?= 10s
ONLY     ?= .
KILLS    ?= 200
LINT    := $(GO) tool -modfile=.ci/tools.mod golangci-lint

.PHONY: build deps test race sim sim-shrink sim-mutants sim-crash sim-soak kills chaos fuzz recipes-chaos overload compat differential differential-record bench bench-etcd lint cluster check clean

build: ## one static binary in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/muster ./cmd/muster

deps: ## etcdctl and dig, which the tests use
	@.ci/install

# The simulator runs apart, to have its report printed.
test: deps ## every test, fixed simulation seeds and the quick half of the mutation gate included
	$(GO) test -timeout 10m $$($(GO) list $(PKGS) | grep -v /core/simtest)
	set -o pipefail; $(GO) test -timeout 10m -v ./core/simtest | grep -vE '^ *(=== |--- PASS|PASS$$)|^time='
	$(GO) test -timeout 10m -tags simbugs -short -run TestMutants ./core/simtest

# Packages that only start the real binary have nothing for the race detector.
RACE_PKGS = $(shell $(GO) list $(PKGS) | grep -vE 'muster/cmd/muster/(e2e|chaos|differential|registrar)$$|musterhq/muster$$')

race: ## the same under the race detector, fewer seeds
	$(GO) test -race -short -timeout 10m $(RACE_PKGS)

sim: ## replay one simulation: make sim SEED=42 ARGS='-members=3 -without=pause'
	$(GO) test ./core/simtest -run TestSeed -v -count=1 -args -seed=$(SEED) $(ARGS)

sim-shrink: ## the smallest run that still shows a seed's failure: make sim-shrink SEED=42
	$(GO) test ./core/simtest -run TestShrink -v -count=1 -args -shrink -seed=$(SEED) $(ARGS)

sim-mutants: ## every known bug is switched on in turn and must be found
	$(GO) test ./core/simtest -tags simbugs -run TestMutants -v -count=1

sim-crash: ## a power cut at every I/O of small workloads, membership and restore included, in every way, once and twice
	$(GO) test ./core/simtest -run TestEveryCrashPoint -v -count=1 -timeout 0 -args -every

# Not through `go test`, which passes no signal on: Ctrl-C or SIGTERM ends it early, with its report.
sim-soak: ## fresh seeds on all cores, and a report: make sim-soak TIME=8h
	$(GO) test -c -o $(BIN)/simtest ./core/simtest
	@$(BIN)/simtest -test.run '^TestSoak$$' -test.timeout 0 -soak=$(TIME)

# Not through `go test` either. Without SEED=n each run has a new one, and prints it.
CHAOS_SEED = $(if $(filter-out file,$(origin SEED)),-seed=$(SEED))

kills: ## kill -9 of any or all of three members, at any moment, under load: make kills KILLS=200 SEED=n
	$(GO) test -c -o $(BIN)/chaos ./cmd/muster/chaos
	@$(BIN)/chaos -test.run '^TestKills' -test.v -test.timeout 0 -kills=$(KILLS) $(CHAOS_SEED) $(ARGS)

chaos: ## three members in network namespaces, every kind of fault (needs root, or user namespaces): make chaos TIME=10m SEED=n ARGS='-faults=cut'
	$(GO) test -c -o $(BIN)/chaos ./cmd/muster/chaos
	@$(BIN)/chaos -test.run '^TestStorm' -test.timeout 0 -chaos=$(TIME) $(CHAOS_SEED) $(ARGS)

fuzz: ## each fuzz target for ten seconds; make fuzz FUZZTIME=2m ONLY=FuzzConfig
	@GO=$(GO) .ci/fuzz $(FUZZTIME) $(ONLY)

recipes-chaos: ## locks and elections while members, clients and wires are maltreated: make recipes-chaos TIME=5m
	$(GO) test ./cmd/muster/e2e -run TestLocksAndElections -v -count=1 -timeout 0 -args -recipes=$(TIME) $(ARGS)

overload: ## ten times the writes that one member, and three, take on, for a minute: make overload TIME=1m
	$(GO) test ./cmd/muster/e2e -run TestOverload -v -count=1 -timeout 0 -args -overload=$(if $(filter-out file,$(origin TIME)),$(TIME),1m)

compat: deps ## etcd's own client and command line against the binary
	$(GO) test -count=1 -timeout 10m ./cmd/muster/e2e

ETCD := $(BIN)/bench-etcd-server

$(ETCD): cmd/muster/bench/etcdserver/go.mod cmd/muster/bench/etcdserver/main.go
	cd $(<D) && $(GO) build -o $(CURDIR)/$@ .

differential: build $(ETCD) ## random requests to etcd v3.7 and to Muster: make differential TIME=5m SEED=7 ARGS=-tree=123
	$(GO) test ./cmd/muster/differential -run TestEtcdAndMusterAnswerAlike -v -count=1 -timeout 0 -args \
	  -etcd=$(CURDIR)/$(ETCD) -muster=$(CURDIR)/$(BIN)/muster -seed=$(SEED) -time=$(TIME) $(ARGS)

differential-record: $(ETCD) ## writes down what etcd answers, for make test
	$(GO) test ./cmd/muster/differential -run TestRecordWhatEtcdAnswers -v -count=1 -args \
	  -etcd=$(CURDIR)/$(ETCD) -record=$(CURDIR)/cmd/muster/differential/testdata/etcd-3.7.3.txt

bench: ## micro-benchmarks beside the code
	$(GO) test -run '^$$' -bench . -benchmem $(PKGS)

bench-etcd: build $(ETCD) ## Muster and etcd v3.7 under the same load, in turn
	$(BIN)/muster bench compare --etcd $(ETCD)

lint: ## gofmt, vet and golangci-lint
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet $(PKGS)
	$(LINT) run $(PKGS)

cluster: build ## three members on this machine, until Ctrl-C
	@$(BIN)/muster server --help >/dev/null
	@trap 'kill 0' INT TERM; for i in 1 2 3; do \
	  $(BIN)/muster server --name m$$i --data-dir m$$i.muster --dns-listen 127.0.0.1:$$((8600+i)) \
	    --listen-client-urls http://127.0.0.1:$${i}2379 --advertise-client-urls http://127.0.0.1:$${i}2379 \
	    --listen-peer-urls http://127.0.0.1:$${i}2380 --initial-advertise-peer-urls http://127.0.0.1:$${i}2380 \
	    --initial-cluster m1=http://127.0.0.1:12380,m2=http://127.0.0.1:22380,m3=http://127.0.0.1:32380 & done; wait

check: lint build test race ## what CI runs

clean:
	rm -rf $(BIN)
