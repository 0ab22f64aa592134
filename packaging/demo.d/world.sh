# The demo's world: two hosts and a LAN between them, throw-away credentials, a sniffer. Sourced by the story.
#
#   the host (client)                                   the router's host
#   enftund --- enf0                                    enfr0 --- enftun-router
#      |        fd00:8f80::1234          fd00:8f80::1            |
#      '------- lan0  ================ LAN ================  wan0 '
#               192.0.2.2, 2001:db8:1::2       192.0.2.1, 2001:db8:1::1
#               default route: wan0            behind it: 198.51.100.9, 2001:db8:9::9

own_address=fd00:8f80::1234
far_address=fd00:8f80::1
remote=192.0.2.1:443
host_mac=02:00:00:00:00:02
# Every one can be reached over the LAN, as the demo shows before it blocks them.
lan_addresses=(192.0.2.1 198.51.100.9 2001:db8:1::1 2001:db8:9::9)

# fail WHAT: ends the demo, and shows what the programs said last.
fail() {
    complain "  FAILED: $*"
    local log
    for log in daemon router bus; do
        if [ -s "$work/$log.log" ]; then
            complain "  the last lines of $log.log:"
            tail -n 15 "$work/$log.log" | sed 's/^/    /' >&2
        fi
    done
    exit 1
}

# show COMMAND…: runs it before everybody's eyes.
show() {
    printf '  %s$ %s%s\n' "$bold" "$*" "$plain"
    "$@" 2>&1 | sed 's/^/    /' || fail "\`$*\`"
}

# until_so WHAT COMMAND…: waits until the command succeeds. The deadline only ends a demo that would hang.
until_so() {
    local what=$1 deadline=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "waited 60 s in vain for $what"
        sleep 0.05
    done
}

# far COMMAND…: runs it on the router's host.
far() { "${on_far_host[@]}" "$@"; }

# background LOG COMMAND…: starts it, its output in LOG.log; its process id is in $started.
background() {
    local log=$1
    shift
    "$@" >>"$work/$log.log" 2>&1 &
    started=$!
}

far_host_is_apart() { [ "$(readlink "/proc/$far_host/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }

make_hosts() {
    ip link set lo up
    background hosts unshare --net sleep infinity
    far_host=$started
    on_far_host=(nsenter "--net=/proc/$far_host/ns/net" --)
    until_so "the second network namespace" far_host_is_apart
    ip link add lan0 address $host_mac type veth peer name wan0 address 02:00:00:00:00:01 netns "$far_host"
    echo 0 >/proc/sys/net/ipv6/conf/lan0/accept_dad
    far sh -c 'echo 0 >/proc/sys/net/ipv6/conf/wan0/accept_dad; ip link set lo up; ip link set wan0 up
        ip addr add 192.0.2.1/24 dev wan0; ip addr add 2001:db8:1::1/64 dev wan0
        ip addr add 198.51.100.9/32 dev lo; ip addr add 2001:db8:9::9/128 dev lo'
    ip link set lan0 up
    ip addr add 192.0.2.2/24 dev lan0
    ip addr add 2001:db8:1::2/64 dev lan0
    ip route add default via 192.0.2.1
    ip -6 route add default via 2001:db8:1::1
    # So that nobody has to ask for addresses while we count frames.
    ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev lan0
    ip neigh replace 2001:db8:1::1 lladdr 02:00:00:00:00:01 dev lan0
    far ip neigh replace 192.0.2.2 lladdr $host_mac dev wan0
    far ip neigh replace 2001:db8:1::2 lladdr $host_mac dev wan0
}

# The user enftun, in copies of /etc/passwd and /etc/group that only these namespaces see.
make_user() {
    if ! getent passwd enftun >/dev/null; then
        local id=64300
        while getent passwd $id || getent group $id; do id=$((id + 1)); done >/dev/null
        { cat /etc/passwd; echo "enftun:x:$id:$id:enftun:/nonexistent:/usr/sbin/nologin"; } >"$work/passwd"
        { cat /etc/group; echo "enftun:x:$id:"; } >"$work/group"
        mount --bind "$work/passwd" /etc/passwd
        mount --bind "$work/group" /etc/group
    fi
    daemon_uid=$(id -u enftun)
    # In a user namespace that has only one user, nobody can become another.
    awk -v uid="$daemon_uid" '$1 <= uid && uid < $1 + $3 { found = 1 } END { exit !found }' /proc/self/uid_map ||
        daemon_uid=0
}

# Every user may open /dev/net/tun where udev runs. Where it does not, these namespaces get a device node of their own.
make_tun_device() {
    [ -c /dev/net/tun ] || fail "there is no /dev/net/tun: load the driver (modprobe tun)"
    if [ "$daemon_uid" -eq 0 ]; then
        [ -r /dev/net/tun ] && [ -w /dev/net/tun ] ||
            fail "you may not open /dev/net/tun here: run the demo as root, or have root do chmod 666 /dev/net/tun"
    elif ! setpriv --reuid "$daemon_uid" --clear-groups sh -c 'test -r /dev/net/tun -a -w /dev/net/tun'; then
        mknod -m 666 "$work/tun" c 10 200
        mount --bind "$work/tun" /dev/net/tun
    fi
}

# A CA, the router's certificate (v3, with its name) and the host's (v1 without extensions, its name the IPv6 address: as
# the tools of the C client make them).
make_credentials() {
    local name subject
    {
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=demo CA" \
            -keyout "$work/ca.key" -out "$work/ca.pem"
        for name in router enf0; do
            subject=router.demo.example
            [ $name = router ] || subject=$own_address
            openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$subject" \
                -keyout "$work/etc/$name.key.pem" -out "$work/$name.csr"
        done
        echo "subjectAltName=DNS:router.demo.example" >"$work/router.ext"
        openssl x509 -req -days 2 -in "$work/router.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial \
            -extfile "$work/router.ext" -out "$work/etc/router.crt.pem"
        openssl x509 -req -days 2 -in "$work/enf0.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial \
            -out "$work/etc/enf0.crt.pem"
        cp "$work/ca.pem" "$work/etc/ca.pem"
    } >>"$work/openssl.log" 2>&1 || { cat "$work/openssl.log" >&2; fail "making certificates"; }
    chmod 600 "$work"/etc/*.key.pem
    [ "$daemon_uid" -eq 0 ] || chown enftun:enftun "$work/etc/enf0.key.pem"
}

write_configurations() {
    cat >"$work/etc/router.toml" <<T
listen = ["$remote"]
cert_file = "router.crt.pem"
key_file = "router.key.pem"
client_ca_file = "ca.pem"
endpoints_dir = "$work/endpoints"
control_socket = "$work/router.sock"

[tun]
dev = "enfr0"
addresses = ["$far_address/64"]
T
    cat >"$work/etc/tunnels/enf0.toml" <<T
kind = "enf"

[remote]
hosts = ["$remote"]
name = "router.demo.example"
ca_cert_file = "ca.pem"
heartbeat_period = "2s"

[route]
prefixes = ["default"]
lockdown = "session"

[identity]
cert_file = "enf0.crt.pem"
key_file = "enf0.key.pem"

[retry]
first = "200ms"
max = "1s"
T
    # What the system bus of a Linux distribution says, as far as it matters here, and our own policy.
    cat >"$work/bus.conf" <<X
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=$work/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>$work/org.enftun.Enftun1.conf</include>
</busconfig>
X
}

start_bus() {
    background bus dbus-daemon --nofork --nopidfile --config-file "$work/bus.conf"
    export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$work/bus
    until_so "the bus" busctl --system status
}

start_router() {
    background router "${on_far_host[@]}" enftun-router --config "$work/etc/router.toml" serve
    router=$started
    until_so "the router" enftun-router --config "$work/etc/router.toml" status
}

start_daemon() {
    background daemon enftund --config-dir "$work/etc" --state-dir "$work/state" --runtime-dir "$work/run" --user enftun \
        --log-level debug
    daemon=$started
    until_so "the daemon on the bus" busctl --system status org.enftun.Enftun1
}

# sniff: a new sniffer on the LAN, at the router's host, in the place of the last one.
sniff() {
    stop_sniffing
    background sniffer "${on_far_host[@]}" "$here/sniffer.py" wan0
    sniffer=$started
    until_so "the sniffer" grep -q "listening" "$work/sniffer.log"
}

stop_sniffing() {
    if [ -n "${sniffer:-}" ]; then
        kill "$sniffer"
        wait "$sniffer" 2>/dev/null || true
    fi
    sniffer=
    : >"$work/sniffer.log"
}

# frames: what the host has put on the LAN since `sniff`; neighbour discovery, which stays on the link, aside. A packet of
# the far host's own tells when the sniffer has got as far as now.
frames() {
    mark=$((${mark:-40000} + 1))
    far bash -c "echo > /dev/udp/192.0.2.2/$mark"
    until_so "the sniffer" grep -q " > 192\.0\.2\.2\.$mark UDP" "$work/sniffer.log"
    grep "^$host_mac > " "$work/sniffer.log" |
        grep -Ev ' (ARP|ICMPv6 (neighbour-solicitation|neighbour-advertisement|router-solicitation|mld))$' || true
}
# Those of the tunnel's own TCP connection, and all others.
own_frames() { frames | grep -F " > ${remote%:*}.${remote#*:} TCP" || true; }
other_frames() { frames | grep -vF " > ${remote%:*}.${remote#*:} TCP" || true; }
attempts() { own_frames | grep -c ' TCP SYN$' || true; }
has_attempt() { [ "$(attempts)" -gt 0 ]; }

# Everything that a clean-up must bring back: links, addresses, rules, routes of all tables, sysctls, nft rules.
state_of_host() {
    local what
    for what in "link" "addr" "-4 rule" "-6 rule" "-4 route show table all" "-6 route show table all"; do
        echo "# ip -d $what"
        # shellcheck disable=SC2086
        ip -d $what
    done
    echo "# /proc/sys/net"
    # Some may be read by nobody.
    { grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 2>/dev/null || true; } | sort
    if command -v nft >/dev/null; then
        echo "# nft"
        nft list ruleset
    fi
}

state() { busctl --system get-property org.enftun.Enftun1 "$object" org.enftun.Enftun1.Tunnel State; }
is_connected() { [ "$(state)" = 's "connected"' ]; }
is_not_connected() { ! is_connected; }
# field NAME PID: a line of /proc/PID/status.
field() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$2/status"; }
