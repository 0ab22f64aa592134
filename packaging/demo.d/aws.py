#!/usr/bin/env python3
"""The applications of `packaging/demo aws`, and their clients.

usage: aws.py applications FILE   runs both, and writes their ports to FILE
       aws.py ports               prints two ports that are free
       aws.py talk PORT           says some lines to the first
       aws.py beside CAMERA SSH   reads nothing of the second while it talks to the first
"""

import socket
import sys
import threading
import time


def listen():
    return socket.create_server(("127.0.0.1", 0))


def shell(client):
    """Something like sshd: a banner, and then every line comes back."""
    with client:
        client.sendall(b"SSH-2.0-demo\r\n")
        while data := client.recv(65536):
            client.sendall(data)


def camera(client):
    picture = bytes(65536)
    with client:
        try:
            while True:
                client.sendall(picture)
        except OSError:
            pass


def serve(listener, application):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=application, args=(client,), daemon=True).start()


def applications(path):
    listeners = [listen(), listen()]
    for listener, application in zip(listeners, [shell, camera]):
        threading.Thread(target=serve, args=(listener, application), daemon=True).start()
    with open(path, "w") as file:
        print(*(listener.getsockname()[1] for listener in listeners), file=file)
    threading.Event().wait()


def dial(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def talk(port):
    began = time.monotonic()
    with dial(port) as client, client.makefile("rwb") as lines:
        banner = lines.readline().decode().strip()
        print(f"      < {banner}")
        for line in ["uptime", "ls /var/log"]:
            lines.write(line.encode() + b"\n")
            lines.flush()
            answer = lines.readline().decode().strip()
            print(f"      > {line}\n      < {answer}")
            if answer != line:
                sys.exit(f"{line!r} came back as {answer!r}")
    print(f"      {(time.monotonic() - began) * 1000:.0f} ms in all")


def beside(camera_port, ssh_port):
    with dial(camera_port) as watcher:
        watcher.recv(65536)
        print("      the camera's client has read one picture, and reads no more")
        times, until = [], time.monotonic() + 20
        # One who talks may have to wait until the camera's client has used up what patience there is; the next ones do not.
        while time.monotonic() < until and not (max(times, default=0) > 1 and times[-1] < 1):
            began = time.monotonic()
            with dial(ssh_port) as client, client.makefile("rwb") as lines:
                lines.readline()
                lines.write(b"who\n")
                lines.flush()
                if lines.readline() != b"who\n":
                    sys.exit("the other connection broke")
            times.append(time.monotonic() - began)
            time.sleep(0.2)
        times.sort()
        print(f"      meanwhile {len(times)} others talked; they needed {times[0] * 1000:.0f} to {times[-1] * 1000:.0f} ms")
    with dial(ssh_port) as client:
        if not client.recv(64).startswith(b"SSH"):
            sys.exit("the next connection broke")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    word, rest = sys.argv[1], sys.argv[2:]
    if word == "applications":
        applications(*rest)
    elif word == "ports":
        first, second = listen(), listen()
        print(first.getsockname()[1], second.getsockname()[1])
    elif word == "talk":
        talk(int(rest[0]))
    elif word == "beside":
        beside(int(rest[0]), int(rest[1]))
    else:
        sys.exit(__doc__)


main()
