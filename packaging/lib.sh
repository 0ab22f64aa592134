# What packaging/demo, tests/run and .ci/run share: plain words, Debian packages, cargo. It is sourced, never run.

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Colour only on a terminal.
bold='' red='' green='' dim='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' dim=$'\e[2m' plain=$'\e[0m'
fi

say() { printf '%s\n' "$*"; }
heading() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
good() { printf '  %sok%s  %s\n' "$green" "$plain" "$*"; }
complain() { printf '%s%s%s\n' "$red" "$*" "$plain" >&2; }
die() { complain "$*"; exit 1; }

# seconds SINCE: the time since $SECONDS was SINCE, for people.
seconds() {
    local passed=$((SECONDS - $1))
    if [ $passed -ge 60 ]; then printf '%d min %d s' $((passed / 60)) $((passed % 60)); else printf '%d s' $passed; fi
}

# as_root COMMAND…: with sudo when we are not root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        complain "this needs root, and there is no sudo: $*"
        return 1
    fi
}

# need PROGRAM:PACKAGE…: installs the Debian packages of the programs that are missing.
need() {
    local pair packages=() log
    for pair in "$@"; do
        if ! command -v "${pair%%:*}" >/dev/null && [[ " ${packages[*]} " != *" ${pair#*:} "* ]]; then
            packages+=("${pair#*:}")
        fi
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        complain "missing, and this is no Debian or Ubuntu: please install what these Debian packages hold: ${packages[*]}"
        return 1
    fi
    say "Installing these Debian packages with apt-get (some 20 seconds): ${packages[*]}"
    log=$(mktemp)
    if as_root apt-get update -q </dev/null >"$log" 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q \
            --no-install-recommends "${packages[@]}" </dev/null >>"$log" 2>&1; then
        rm -f "$log"
    else
        tail -n 20 "$log" >&2
        rm -f "$log"
        complain "could not install: ${packages[*]}"
        return 1
    fi
}

# Finds cargo where rustup puts it, also for whoever came here through sudo.
need_cargo() {
    local home
    command -v cargo >/dev/null && return 0
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-}" | cut -d: -f6)"; do
        if [ -x "$home/.cargo/bin/cargo" ]; then
            PATH=$PATH:$home/.cargo/bin
            export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} CARGO_HOME=${CARGO_HOME:-$home/.cargo}
            return 0
        fi
    done
    complain "cargo is missing: install Rust 1.95 or newer from https://rustup.rs"
    return 1
}
