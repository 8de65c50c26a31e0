# Every command a person needs, each safe to repeat. `make` alone explains them.
#
# Programs of Debian that are missing are installed (asks for sudo when you are not root);
# Python packages go into .venv only. Daemons that come with test programs (sshd, nsd, radvd,
# tayga, named, unbound) are neither started nor enabled: the tests run their own, in network namespaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

export PATH := $(PATH):/usr/sbin:/sbin
export DEBIAN_FRONTEND := noninteractive

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
VENV := .venv
BIN := $(VENV)/bin
# Without atheris, which has no wheels for every machine, the same inputs are mutated blindly.
FUZZ = $(BIN)/python -B -m tests.fuzz \
    $$($(BIN)/python -c 'import atheris' 2>/dev/null || echo --unguided)

# The Python that makes .venv: the first of these that is 3.11 or newer and can make one.
PYTHONS ?= python3 python3.13 python3.12 python3.11 /usr/bin/python3

# PROGRAM:PACKAGE of Debian. Installed only when a program is missing.
TEST_PROGRAMS := \
    busybox:busybox conntrack:conntrack curl:curl dash:dash dig:bind9-dnsutils ethtool:ethtool \
    ip:iproute2 iperf3:iperf3 iptables:iptables nft:nftables nsd:nsd nsd-control:nsd \
    ping:iputils-ping radvd:radvd rdisc6:ndisc6 ssh:openssh-client ssh-keygen:openssh-client \
    sshd:openssh-server sysctl:procps tayga:tayga tc:iproute2 tcpdump:tcpdump \
    tracepath:iputils-tracepath traceroute:traceroute delv:bind9-dnsutils dnsperf:dnsperf \
    dnssec-signzone:bind9-utils named:bind9 openssl:openssl unbound:unbound unshare:util-linux \
    pdns_recursor:pdns-recursor unbound-host:unbound-host

# Shell functions of the recipes below. $(1) of Make is not used in them.
define SHELL_FUNCTIONS
usable() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    >/dev/null 2>&1; }
find_python() {
    local python
    for python in $(PYTHONS); do
        if usable "$$python"; then echo "$$python"; return; fi
    done
    return 1
}
apt_install() {
    if ! command -v apt-get >/dev/null; then
        echo "make: please install these yourself, this is no Debian: $$*" >&2; return 1
    fi
    # A unit that is masked is not started by its package, one that is disabled stays off.
    local package unit quiet=()
    for unit in openssh-server:ssh nsd:nsd radvd:radvd tayga:tayga bind9:named \
        unbound:unbound; do
        package="$${unit%:*}"
        if [ -d /run/systemd/system ] && [[ " $$* " == *" $$package "* ]] \
            && ! dpkg -s "$$package" >/dev/null 2>&1; then quiet+=("$${unit#*:}.service"); fi
    done
    if (($${#quiet[@]})); then $(SUDO) systemctl mask --runtime --quiet "$${quiet[@]}"; fi
    local status=0
    $(SUDO) apt-get update -q && $(SUDO) env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$$@" || status=$$?
    if (($${#quiet[@]})); then
        $(SUDO) systemctl unmask --runtime --quiet "$${quiet[@]}"
        $(SUDO) systemctl disable --quiet "$${quiet[@]}" || true
        echo "make: installed for the tests, not started, not enabled: $${quiet[*]}"
    fi
    return $$status
}
make_venv() {
    if [ -x $(BIN)/python ] && ! $(BIN)/python -c '' 2>/dev/null; then rm -rf $(VENV); fi
    if [ -x $(BIN)/pip ]; then return; fi
    local python
    if ! python="$$(find_python)"; then
        apt_install python3 python3-venv
        python="$$(find_python)" || {
            echo "make: Python 3.11 or newer is needed; make PYTHONS=/path/to/python3" >&2
            return 1
        }
    fi
    rm -rf $(VENV)
    "$$python" -m venv $(VENV)
}
need_tun() {
    [ -c /dev/net/tun ] || $(SUDO) modprobe tun 2>/dev/null || true
    [ -c /dev/net/tun ] || {
        echo "make: no /dev/net/tun: load the module (modprobe tun), or start the container" \
            "with --device /dev/net/tun --cap-add NET_ADMIN" >&2
        return 1
    }
}
endef

.PHONY: help venv packages run test unit e2e fuzz fuzz-short lint demo bench bench-backhaul bench-scale bench-dns64 clean

help: ## print this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1#/p' Makefile | while IFS='#' read -r name text; do
	    printf '  make %-14s %s\n' "$$name" "$$text"
	done

# What `run` needs. A changed pyproject.toml installs again.
$(VENV)/run.stamp: pyproject.toml
	@$(SHELL_FUNCTIONS)
	make_venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test.stamp: pyproject.toml
	@$(SHELL_FUNCTIONS)
	make_venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(VENV)/run.stamp $@

$(VENV)/fuzz.stamp: $(VENV)/test.stamp
	@$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	touch $@

venv: $(VENV)/test.stamp ## make .venv with the program (editable) and the tools of the tests

packages: ## install the Debian programs that the tests use, where missing
	@$(SHELL_FUNCTIONS)
	missing=()
	for pair in $(TEST_PROGRAMS); do
	    command -v "$${pair%:*}" >/dev/null || missing+=("$${pair#*:}")
	done
	if (($${#missing[@]})); then
	    mapfile -t missing < <(printf '%s\n' "$${missing[@]}" | sort -u)
	    apt_install "$${missing[@]}"
	fi
	for pair in $(TEST_PROGRAMS); do
	    command -v "$${pair%:*}" >/dev/null || {
	        echo "make: $${pair%:*} is missing, though $${pair#*:} is installed" >&2; exit 1; }
	done

run: $(VENV)/run.stamp ## install what is missing, then run the gateway as root: make run ARGS="--dry-run"
	@$(SHELL_FUNCTIONS)
	need_tun
	exec $(SUDO) $(BIN)/gateway $(ARGS)

test: packages lint fuzz-short ## everything: lint, types, fuzzing for 30 s, then unit, property, host and end-to-end tests (as root)
	@$(SHELL_FUNCTIONS)
	need_tun
	$(SUDO) $(BIN)/python -B -m pytest -p no:cacheprovider $(ARGS)

unit: $(VENV)/test.stamp ## only the tests that need no root: unit and property
	@$(BIN)/python -m pytest tests/unit tests/property $(ARGS)

e2e: packages $(VENV)/test.stamp ## only the tests on a real kernel, in network namespaces (as root)
	@$(SHELL_FUNCTIONS)
	need_tun
	$(SUDO) $(BIN)/python -B -m pytest -p no:cacheprovider tests/host tests/e2e $(ARGS)

fuzz: $(VENV)/fuzz.stamp ## the coverage-guided fuzzer for ten minutes; findings go to a directory that it prints
	@$(FUZZ) --seconds 600 $(ARGS)

# The same mutations each time: what makes a run of CI red is a change, not chance.
fuzz-short: $(VENV)/fuzz.stamp ## the same for 30 seconds, from a fixed seed
	@PYTHONHASHSEED=64 $(FUZZ) --seconds 30 --seed 64

lint: $(VENV)/test.stamp ## ruff (format and rules), mypy --strict, import-linter
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict gateway translate tests
	$(BIN)/lint-imports

demo: packages $(VENV)/test.stamp ## client, gateway and server in namespaces: ping, curl, ssh; cleans up
	@$(SHELL_FUNCTIONS)
	need_tun
	$(SUDO) $(BIN)/python -B -m tests.demo $(ARGS)

bench: packages $(VENV)/test.stamp ## plain forwarding, TAYGA and the gateway in one run; prints ratios
	@$(SHELL_FUNCTIONS)
	need_tun
	$(SUDO) $(BIN)/python -B -m tests.bench $(ARGS)

bench-backhaul: packages $(VENV)/test.stamp ## the backhaul beside the same ssh tunnel with plain routing; times of reconnect
	@$(SHELL_FUNCTIONS)
	need_tun
	$(SUDO) $(BIN)/python -B -m tests.bench.backhaul $(ARGS)

bench-scale: $(VENV)/test.stamp ## a million sessions on one core: memory, speed, pauses against targets
	@$(BIN)/python -B -m tests.bench.scale $(ARGS)

bench-dns64: packages $(VENV)/test.stamp ## the DNS64 and one-threaded Unbound in turns: queries a second, ratios
	@$(SHELL_FUNCTIONS)
	need_tun
	$(SUDO) $(BIN)/python -B -m tests.bench.dns64 $(ARGS)

clean: ## remove .venv, caches and build products (not what was installed with apt)
	@$(SUDO) rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis \
	    .import_linter_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -print0 | xargs -0r $(SUDO) rm -rf
