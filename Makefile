# One entry for people and CI: `make test` installs what it needs, then runs everything CI runs.

.PHONY: test check build unit scenarios lint bench deps

test: deps lint build unit scenarios

# Nothing but the Rust toolchain is needed so far; rustfmt and clippy come with it.
deps:
	@cargo --version >/dev/null 2>&1 || { echo "make: cargo is not installed: install a stable Rust toolchain (1.95 or newer) first" >&2; exit 2; }
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

build:
	cargo build --release --locked

unit:
	cargo test --workspace --locked

# Every scenario in the simulated cluster, each with several seeds, as the README runs one.
scenarios: build
	./target/release/fairway run scenarios --seeds 5 --quiet --junit target/scenarios.xml

bench:
	cargo build --release --locked
	cargo bench --locked -p fairway-benches
