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

# need PROGRAM:PACKAGE…: installs the Debian packages of the programs that are missing. What has no program is told by a path.
need() {
    local pair packages=() log
    for pair in "$@"; do
        if ! command -v "${pair%%:*}" >/dev/null && [ ! -e "${pair%%:*}" ] && [[ " ${packages[*]} " != *" ${pair#*:} "* ]]; then
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

# unpack PACKAGE DIRECTORY LIKE: unpacks a Debian package that must not be installed, for it would change this host; its
# version is that of the installed package LIKE, where that can be had.
unpack() {
    local package=$1 directory=$2 version work
    [ ! -d "$directory" ] || return 0
    version=$(dpkg-query -W -f '=${Version}' "$3" 2>/dev/null)
    work=$(mktemp -d)
    # Where apt-get has a user of its own for downloads, that user writes here.
    chmod 777 "$work"
    say "Unpacking the Debian package $package into $directory; it is not installed"
    if (cd "$work" && { apt-get download -q "$package$version" ||
        { as_root apt-get update -q && { apt-get download -q "$package$version" || apt-get download -q "$package"; }; }; } \
        </dev/null >log 2>&1) && mkdir -p "$(dirname "$directory")" && dpkg -x "$work"/*.deb "$work/root" &&
        cp -a "$work/root" "$directory"; then
        rm -rf "$work"
    else
        tail -n 5 "$work/log" >&2
        rm -rf "$work" "$directory"
        complain "could not unpack: $package"
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
