#!/usr/bin/env python3
"""Moves bytes over one TCP connection and says what arrived.

transfer.py listen|connect ADDRESS PORT send FILE     sends the file
transfer.py listen|connect ADDRESS PORT receive       prints "BYTES SHA256 SECONDS"
"""

import hashlib
import socket
import sys
import time


def connection(role, address, port):
    if role == "connect":
        return socket.create_connection((address, port), timeout=60)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    listener.settimeout(60)
    print("listening", file=sys.stderr, flush=True)
    accepted, _ = listener.accept()
    # No end of the transfer waits for ever for the other.
    accepted.settimeout(60)
    return accepted


def main(role, address, port, verb, file=None):
    with connection(role, address, int(port)) as stream:
        if verb == "send":
            with open(file, "rb") as content:
                stream.sendfile(content)
            stream.shutdown(socket.SHUT_WR)
            # The far end closes when it has everything.
            stream.recv(1)
            return
        total, digest, begun = 0, hashlib.sha256(), None
        while chunk := stream.recv(1 << 18):
            begun = begun or time.monotonic()
            total += len(chunk)
            digest.update(chunk)
        print(total, digest.hexdigest(), f"{time.monotonic() - begun if begun else 0:.3f}")


main(*sys.argv[1:])
