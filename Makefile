# One entry for people and CI: `make test` installs what it needs, then runs everything CI runs.

.PHONY: test build unit fuzz scenarios kernel netns interop uml guest image-root image lint bench bench-kernel bench-node bench-bgp \
  bench-bgp-scale deps

test: deps lint build image-root kernel unit fuzz scenarios netns interop uml guest

# The binary that is tested is the one that is shipped: linked statically, with what libc6-dev has for that.
TARGET = x86_64-unknown-linux-gnu
FAIRWAY = target/$(TARGET)/release/fairway

# For the lab: what builds its kernel, what plays in it, and what looks at it. Without root it is left to the user.
DAEMONS = bird2 exabgp frr gobgpd
PACKAGES = bc binutils bison conntrack flex g++ gcc ipset iproute2 iptables ipvsadm kmod libc6-dev make nftables \
  python3-prometheus-client tcpdump xz-utils $(DAEMONS)
# Any kubectl will do for the tests of the API server, Debian's if there is none.
PACKAGES += $(shell command -v kubectl >/dev/null 2>&1 || echo kubernetes-client)

# A routing daemon that was not here before shall not serve here: it would take BGP's port.
# Besides them the Rust toolchain; rustfmt and clippy come with it.
deps:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	command -v kubectl >/dev/null || missing="$$missing kubernetes-client"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing && \
	    for d in $(filter-out bird2,$(DAEMONS)) bird; do case " $$(echo $$missing)" in *" $$d"*) systemctl disable --now $$d 2>/dev/null || :;; esac; done; \
	  else echo "make: please install: $$missing" >&2; exit 2; fi; fi
	@cargo --version >/dev/null 2>&1 || { echo "make: cargo is not installed: install a stable Rust toolchain (1.95 or newer) first" >&2; exit 2; }
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

build:
	cargo build --release --locked --target $(TARGET) --config 'target.$(TARGET).rustflags = ["-Ctarget-feature=+crt-static"]'

# What is in the container image: the daemon by its names; a shell and the client gobgp, as in kube-router's image; the CNI
# plugins. The packages are unpacked, not installed.
IMAGE_PACKAGES = busybox-static containernetworking-plugins gobgpd libc6
IMAGE_PLUGINS = bridge host-local loopback portmap
image-root: build
	@rm -rf target/image && mkdir -p target/image/packages target/image/unpacked
	@cd target/image/packages && { apt-get download -qq $(IMAGE_PACKAGES) 2>download.log || \
	  { apt-get update -qq && apt-get download -qq $(IMAGE_PACKAGES); } || { cat download.log >&2; exit 1; }; }
	@for package in target/image/packages/*.deb; do dpkg -x $$package target/image/unpacked; done
	@cd target/image && mkdir -p root/bin root/etc root/lib/x86_64-linux-gnu root/lib64 root/run root/tmp root/usr/libexec/cni root/usr/local/bin root/var && \
  ln -s /run root/var/run && \
	  cp ../../$(FAIRWAY) root/usr/local/bin/fairway && strip root/usr/local/bin/fairway && \
	  for name in kube-router cni-install mconnect; do ln -s fairway root/usr/local/bin/$$name; done && \
	  cp unpacked/usr/bin/gobgp root/usr/local/bin/ && \
	  cp -L unpacked/lib/x86_64-linux-gnu/libc.so.6 root/lib/x86_64-linux-gnu/ && cp -L unpacked/lib64/ld-linux-x86-64.so.2 root/lib64/ && \
	  cp unpacked/bin/busybox root/bin/ && for name in $$(root/bin/busybox --list | grep -vx busybox); do ln -s busybox root/bin/$$name; done && \
	  for name in $(IMAGE_PLUGINS); do cp unpacked/usr/lib/cni/$$name root/usr/libexec/cni/; done && \
	  echo 'root:x:0:0:root:/:/bin/sh' > root/etc/passwd && rm -rf packages unpacked
	@inside() { unshare -r chroot target/image/root "$$@"; }; \
	  inside /usr/local/bin/kube-router --version && inside /bin/sh -c 'gobgp --version && cni-install --version' && du -sh target/image/root

# The image itself, with the first of these tools that there is.
image: image-root
	@if command -v buildah >/dev/null; then buildah bud -t fairway -f deploy/Containerfile target/image; \
	elif command -v podman >/dev/null; then podman build -t fairway -f deploy/Containerfile target/image; \
	elif command -v docker >/dev/null; then docker build -t fairway -f deploy/Containerfile target/image; \
	else echo 'make: please install buildah, podman or docker' >&2; exit 2; fi

unit:
	cargo test --workspace --locked

# Every decoder of the BGP speaker, and whole sessions, under libFuzzer for a moment. FUZZ_S=600 hunts. What it finds is
# in target/fuzz/; an input that broke something belongs into the corpus.
FUZZ_S = 2
FUZZ_TARGETS = bfd message open capabilities update attributes notification refresh session
fuzz:
	cd engine/bgp/fuzz && cargo fmt --check && cargo build --release --locked
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p target/fuzz/corpus/$$target && \
	  target/fuzz/x86_64-unknown-linux-gnu/release/$$target -max_total_time=$(FUZZ_S) -timeout=10 -rss_limit_mb=1024 \
	    -artifact_prefix=target/fuzz/$$target- target/fuzz/corpus/$$target engine/bgp/fuzz/corpus/$$target \
	    > target/fuzz/$$target.log 2>&1 || { tail -50 target/fuzz/$$target.log; exit 1; }; \
	  tail -1 target/fuzz/$$target.log | sed "s/^/$$target: /"; done

# Every scenario in the simulated cluster, each with several seeds, as the README runs one.
scenarios: build
	$(FAIRWAY) run scenarios --seeds 5 --quiet --junit target/scenarios.xml

# The kernel in which the lab plays; built once, four minutes, and cached outside the work tree.
kernel: build
	$(FAIRWAY) kernel

# On this machine's kernel, as far as it goes.
netns: build
	$(FAIRWAY) run scenarios --stage netns --quiet --may-skip scenarios/may-skip.txt

# The basics with each of the routing daemons, and BFD with those that have it. The rest of scenarios/interop names its
# daemons itself, and is played by netns and uml.
interop: build
	for daemon in gobgp bird frr exabgp; do \
	  $(FAIRWAY) run scenarios/interop/sessions.yaml --stage netns --quiet --routers $$daemon || exit 1; \
	done
	for daemon in bird frr; do \
	  $(FAIRWAY) run scenarios/bgp/bfd.yaml --stage netns --quiet --routers $$daemon || exit 1; \
	done

# On a kernel that has everything: all scenarios, and the first of them with the routers of others.
uml: build kernel
	$(FAIRWAY) run scenarios --stage uml --quiet --junit target/scenarios-uml.xml
	$(FAIRWAY) run scenarios/seed/mconnect-bgp.yaml --stage uml --quiet --routers gobgp
	$(FAIRWAY) run scenarios/seed/mconnect-bgp.yaml --stage uml --quiet --routers bird

# Tests of what touches a kernel, in a guest, where nothing is missing and nobody is disturbed.
GUEST_CRATES = fairway-netlink fairway-backend-route fairway-backend-ipvs fairway-backend-filter fairway-node fairway-lab
guest: build kernel
	cargo build --locked -p fairway-uml
	cargo test --locked $(addprefix -p ,$(GUEST_CRATES)) --tests \
	  --config "target.'cfg(unix)'.runner = ['$(CURDIR)/target/debug/umlrun', '-t', '600', '-m', '1536', '-o', '$(CURDIR)/target/guest', '--']"

bench:
	cargo build --release --locked
	cargo bench --locked -p fairway-benches --bench compute --bench scenario --bench wire

# Against other BGP daemons, those that are installed (bird2, gobgpd, frr), on this machine; as root.
bench-bgp:
	cargo bench --locked -p fairway-benches --bench bgp

# Many BGP speakers in one process, with simulated links: messages, virtual and real time, memory (about 5 GiB).
bench-bgp-scale:
	cargo bench --locked -p fairway-benches --bench bgp_scale

# Against the usual tools, in the lab's kernel.
bench-kernel: kernel
	cargo build --locked -p fairway-uml
	cargo bench --locked -p fairway-benches --bench kernel \
	  --config "target.'cfg(unix)'.runner = ['$(CURDIR)/target/debug/umlrun', '-t', '900', '-m', '2048', '-o', '$(CURDIR)/target/guest', '--']"

# The daemon as a process against our API server, with up to 10,000 services, in the lab's kernel. Takes about five minutes.
bench-node: build kernel
	cargo build --locked -p fairway-uml
	FAIRWAY=$(CURDIR)/$(FAIRWAY) cargo bench --locked -p fairway-benches --bench node \
	  --config "target.'cfg(unix)'.runner = ['$(CURDIR)/target/debug/umlrun', '-t', '900', '-m', '3072', '-o', '$(CURDIR)/target/guest', '--']"
