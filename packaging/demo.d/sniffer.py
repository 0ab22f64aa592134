#!/usr/bin/env python3
"""sniffer.py INTERFACE: prints a line for every frame on the interface, in both directions:

02:00:00:00:00:02 > 02:00:00:00:00:01 IPv6 2001:db8:1::2 > 2001:db8:1::1 ICMPv6 echo-request

(tcpdump as root insists on setgroups(2), which a user namespace does not allow.)
"""

import socket
import struct
import sys

ETH_P_ALL = 3
ICMP = {0: "echo-reply", 3: "unreachable", 8: "echo-request"}
ICMPV6 = {
    1: "unreachable", 128: "echo-request", 129: "echo-reply", 131: "mld", 132: "mld", 143: "mld",
    133: "router-solicitation", 134: "router-advertisement", 135: "neighbour-solicitation", 136: "neighbour-advertisement",
}


def transport(protocol, packet, payload):
    if protocol in (6, 17):
        ports = struct.unpack_from("!HH", payload)
        name = "UDP" if protocol == 17 else "TCP SYN" if payload[13] & 2 else "TCP"
        return packet[0], f"{packet[1]}.{ports[0]} > {packet[2]}.{ports[1]} {name}"
    kinds, name = {1: (ICMP, "ICMP"), 58: (ICMPV6, "ICMPv6")}.get(protocol, ({}, f"protocol {protocol}"))
    kind = f" {kinds.get(payload[0], payload[0])}" if kinds else ""
    return packet[0], f"{packet[1]} > {packet[2]} {name}{kind}"


def describe(frame):
    ethertype = struct.unpack_from("!H", frame, 12)[0]
    packet = frame[14:]
    if ethertype == 0x0806:
        return "ARP"
    if ethertype == 0x0800:
        addresses = [socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16)]
        return " ".join(transport(packet[9], ["IPv4", *addresses], packet[(packet[0] & 15) * 4 :]))
    if ethertype == 0x86DD:
        addresses = [socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24)]
        protocol, payload = packet[6], packet[40:]
        if protocol == 0:  # hop-by-hop options, as MLD has them
            protocol, payload = payload[0], payload[(payload[1] + 1) * 8 :]
        return " ".join(transport(protocol, ["IPv6", *addresses], payload))
    return f"ethertype {ethertype:#06x}"


with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sniffer:
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sniffer.bind((sys.argv[1], 0))
    print(f"listening on {sys.argv[1]}", flush=True)
    while True:
        frame = sniffer.recv(65535)
        target, source = (":".join(f"{byte:02x}" for byte in frame[at : at + 6]) for at in (0, 6))
        try:
            what = describe(frame)
        except (IndexError, struct.error):
            what = f"unreadable: {frame.hex()}"
        print(f"{source} > {target} {what}", flush=True)
