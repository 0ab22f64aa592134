#!/usr/bin/env python3
"""A far end written by the letter of the old wire, on OpenSSL: it answers every packet as an echo request.

It is as naive as the peers that exist: it asks for no client certificate, reads a length with one recv(2) and a packet with
one recv(length), without a loop, and gives up the connection when either comes short. A client that splits a frame over two
TLS records does not survive it. Prints its port, then one line a connection when that ends: frames, and why it ended.

usage: plain_router.py CERTIFICATE KEY 1.2|1.3
"""
import socket
import ssl
import struct
import sys


def checksum(source, destination, message):
    data = source + destination + struct.pack("!II", len(message), 58) + message + b"\0" * (len(message) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answer(packet):
    source, destination, message = packet[8:24], packet[24:40], packet[40:]
    if packet[0] >> 4 != 6 or packet[6] != 58 or message[0] != 128:
        raise ValueError("not an echo request")
    message = b"\x81\0\0\0" + message[4:]
    message = b"\x81\0" + struct.pack("!H", checksum(destination, source, message)) + message[4:]
    return packet[:8] + destination + source + message


def serve(connection):
    frames = 0
    try:
        while True:
            header = connection.recv(2)
            if not header:
                return frames, "closed"
            if len(header) != 2:
                return frames, "a length came in two records"
            (length,) = struct.unpack("!H", header)
            packet = connection.recv(length)
            if len(packet) != length:
                return frames, f"a packet of {length} bytes came in two records"
            frames += 1
            reply = answer(packet)
            connection.sendall(struct.pack("!H", len(reply)) + reply)
    except (OSError, ValueError) as error:
        return frames, str(error)


def main():
    certificate, key, version = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    print(listener.getsockname()[1], flush=True)
    while True:
        raw, _ = listener.accept()
        try:
            with context.wrap_socket(raw, server_side=True) as connection:
                print(*serve(connection), flush=True)
        except OSError as error:
            print("handshake:", error, flush=True)


main()
