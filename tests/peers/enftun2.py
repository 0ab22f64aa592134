#!/usr/bin/env python3
"""A stranger that speaks enftun/2: written from docs/protocol.md alone, on Python's standard library and OpenSSL.

It has no TUN. As a client it asks the router and another client by packets made by hand, sends a super-packet with a
virtio-net header, answers pings, and tells what it hears. As a router it serves one client after the other: it answers echo
requests and pings, and goes away when it is told to. Every line that it prints is an event and its words.

usage: enftun2.py client PORT CERTIFICATE KEY CA OWN-ADDRESS PEER-ADDRESS [ALPN...]
       enftun2.py router CERTIFICATE KEY CA
"""
import ipaddress
import select
import socket
import ssl
import struct
import sys
import time

PACKET, HELLO, PING, PONG, GOING_AWAY = range(5)
MAX = 1 + 10 + 65535
MTU = 1280
ROUTER = ipaddress.ip_address("fe80::1").packed


def say(*words):
    print(*words, flush=True)


def fold(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(source, destination, protocol, length):
    return fold(source + destination + struct.pack("!II", length, protocol))


def ipv6(source, destination, protocol, payload, hops=64):
    return struct.pack("!IHBB", 0x60000000, len(payload), protocol, hops) + source + destination + payload


def icmp(source, destination, kind, rest):
    start = struct.pack("!H", pseudo(source, destination, 58, 4 + len(rest)))
    checksum = ~fold(start + bytes([kind, 0, 0, 0]) + rest) & 0xFFFF
    return ipv6(source, destination, 58, struct.pack("!BBH", kind, 0, checksum) + rest, 255)


def echo_reply(packet):
    """The answer to an echo request, or nothing."""
    if len(packet) < 48 or packet[0] >> 4 != 6 or packet[6] != 58 or packet[40] != 128:
        return None
    return icmp(packet[24:40], packet[8:24], 129, packet[44:])


def vnet(flags=0, gso_type=0, hdr_len=0, gso_size=0, csum_start=0, csum_offset=0):
    return struct.pack("<BBHHHH", flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)


def super_datagram(source, destination, port, payload, size):
    """Datagrams of `size` bytes each, as one packet with its header."""
    length = 8 + len(payload)
    header = struct.pack("!HHHH", 40000, port, length, pseudo(source, destination, 17, length))
    return vnet(1, 5, 48, size, 40, 6) + ipv6(source, destination, 17, header + payload)


def super_segment(source, destination, payload, size):
    """TCP segments of `size` bytes each, as one packet with its header."""
    length = 20 + len(payload)
    checksum = pseudo(source, destination, 6, length)
    header = struct.pack("!HHIIBBHHH", 40000, 7, 1, 1, 0x50, 0x18, 512, checksum, 0)
    return vnet(1, 4, 60, size, 40, 16) + ipv6(source, destination, 6, header + payload)


class Session:
    """Frames on a TLS connection."""

    def __init__(self, tls):
        self.tls = tls
        self.bytes = b""
        self.send(HELLO, struct.pack("!BBH", 2, 1, MTU))

    def send(self, kind, body):
        self.tls.sendall(struct.pack("!IB", 1 + len(body), kind) + body)

    def packet(self, packet, header=vnet()):
        self.send(PACKET, header + packet)

    def frames(self, timeout):
        """What is there within this time; nothing when nothing came, None at the end."""
        try:
            if not self.tls.pending() and not select.select([self.tls], [], [], timeout)[0]:
                return []
            chunk = self.tls.recv(65536)
        except (ssl.SSLWantReadError, TimeoutError):
            return []
        if not chunk:
            return None
        self.bytes += chunk
        frames = []
        while len(self.bytes) >= 5:
            length, kind = struct.unpack("!IB", self.bytes[:5])
            if not 1 <= length <= MAX:
                raise ValueError(f"a frame of {length} bytes")
            if len(self.bytes) < 4 + length:
                break
            frames.append((kind, self.bytes[5 : 4 + length]))
            self.bytes = self.bytes[4 + length :]
        return frames

    def heard(self, kind, body):
        """Does what any end does with a frame, and tells of it; returns an IP packet."""
        if kind == HELLO:
            version, flags, mtu = struct.unpack("!BBH", body[:4])
            say("hello", version, flags, mtu)
        elif kind == PING:
            self.send(PONG, body[:8] + struct.pack("!Q", time.monotonic_ns() // 1000))
            say("ping")
        elif kind == PONG:
            stamp, _ = struct.unpack("!QQ", body[:16])
            say("pong", stamp)
        elif kind == GOING_AWAY:
            say("going-away", *struct.unpack("!BI", body[:5]))
        elif kind == PACKET:
            flags, gso_type, hdr_len, gso_size, _, _ = struct.unpack("<BBHHHH", body[:10])
            packet = body[10:]
            if packet[6] in (6, 17):
                say("packet", packet[6], len(packet), flags, gso_type, hdr_len, gso_size)
            return packet
        return None


def context(purpose, certificate, key, ca):
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(certificate, key)
    made.load_verify_locations(ca)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def client(port, certificate, key, ca, own, peer, *names):
    own, peer = (ipaddress.ip_address(address).packed for address in (own, peer))
    made = context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, ca)
    made.set_alpn_protocols(list(names) or ["enftun/2"])
    raw = socket.create_connection(("::1", int(port)))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = made.wrap_socket(raw)
    say("alpn", tls.selected_alpn_protocol() or "none")
    session = Session(tls)
    # A kind that nobody knows, and a ping with a field that nobody knows.
    session.send(200, b"from the future")
    session.send(PING, struct.pack("!Q", 4711) + b"more")
    session.packet(icmp(own, ROUTER, 128, b"\0\1\0\2question"))
    # Headers that no receiver may believe: a segment of one byte, IPv4's type on IPv6, no NEEDS_CSUM. Then good ones.
    segment = super_segment(own, peer, b"a" * 3000, 1000)
    for header in (vnet(1, 4, 60, 1, 40, 16), vnet(1, 1, 60, 1000, 40, 16), vnet(0, 4, 60, 1000, 40, 16)):
        session.send(PACKET, header + segment[10:])
    session.send(PACKET, segment)
    session.send(PACKET, super_datagram(own, peer, 7, b"abcdefgh", 3))
    say("sent")
    while True:
        frames = session.frames(30)
        if frames is None:
            return say("closed")
        for kind, body in frames:
            packet = session.heard(kind, body)
            if packet and packet[6] == 58 and packet[40] == 129:
                say("echo-reply", ipaddress.ip_address(packet[8:24]))


def serve(tls):
    session = Session(tls)
    while True:
        frames = session.frames(0.05)
        if frames is None:
            return say("closed")
        for kind, body in frames:
            packet = session.heard(kind, body)
            reply = packet and echo_reply(packet)
            if reply:
                session.packet(reply)
        # A line on standard input: `away REASON AFTER` or `ping STAMP`.
        if select.select([sys.stdin], [], [], 0)[0]:
            words = sys.stdin.readline().split()
            if not words:
                return None
            if words[0] == "ping":
                session.send(PING, struct.pack("!Q", int(words[1])))
            else:
                session.send(GOING_AWAY, struct.pack("!BI", int(words[1]), int(words[2])))
                try:
                    tls.unwrap().close()
                except OSError:
                    pass
                return say("went")


def router(certificate, key, ca):
    made = context(ssl.PROTOCOL_TLS_SERVER, certificate, key, ca)
    made.set_alpn_protocols(["enftun/2"])
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    say(listener.getsockname()[1])
    while True:
        raw, _ = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with made.wrap_socket(raw, server_side=True) as tls:
                say("session", tls.selected_alpn_protocol() or "none")
                serve(tls)
        except (OSError, ValueError) as error:
            say("broken", error)


{"client": client, "router": router}[sys.argv[1]](*sys.argv[2:])
