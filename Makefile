# `make test` and `make check` set up what they need; `make help` lists everything.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help demo check test bench soak docs

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: ## a network and a node on this machine, with a real model; KEEP=1 leaves them running
	scripts/runtime
	@# Where there is no container engine, the demo says so and leaves that step out.
	test ! -S /var/run/docker.sock || scripts/image runtime >/dev/null
	cargo build -q --release --locked -p node-cli
	target/release/resultity-node demo --runtimes .tools/runtime --models .tools/models --images .tools/images $(if $(KEEP),--keep)

check: ## format, lints, dependency policy, documentation, generated documents
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked --version 0.20.2 --root .tools
	@# Advisories are left out: their database is not a package and cannot be fetched everywhere.
	cargo deny check bans licenses sources
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	cargo run -q --locked -p xtask -- check

test: ## every test
	@cargo nextest --version >/dev/null 2>&1 || cargo install cargo-nextest --locked --version 0.9.143 --root .tools
	scripts/browser
	@# So that no test waits for a download.
	scripts/promtool
	scripts/collector
	test ! -S /var/run/docker.sock || test $$(id -u) != 0 || scripts/machine >/dev/null
	test ! -S /var/run/docker.sock || test $$(id -u) != 0 || ! command -v apt-get >/dev/null || scripts/podman
	test ! -e /dev/fuse || test $$(id -u) != 0 || ! command -v apt-get >/dev/null || scripts/bindfs
	cargo test --workspace --doc --locked
	cargo nextest run --workspace --locked </dev/null

bench: ## store and Agent against their aims, in BENCH_DIR=<folder>; PEERS=1 puts other servers beside it
	cargo bench -q --locked -p store-bench --bench store -- $(if $(BENCH_DIR),--dir "$(abspath $(BENCH_DIR))") $(if $(PEERS),--peers)
	@# One of the tools beside which files are hashed.
	@b3sum --version >/dev/null 2>&1 || cargo install -q b3sum --locked --version 1.8.7 --root .tools
	cargo bench -q --locked -p store-bench --bench hash -- $(if $(BENCH_DIR),--dir "$(abspath $(BENCH_DIR))")
	cargo bench -q --locked -p store-bench --bench calls
	cargo bench -q --locked -p node-cli --bench agent

soak: ## an hour of jobs with faults at random: every job ends once, disk and memory stay; MINUTES=5 is shorter
	cargo bench -q --locked -p node-cli --bench soak

docs: ## write the generated documents again
	cargo run -q --locked -p xtask -- generate
