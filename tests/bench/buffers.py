"""Memory in the hands of clients: what bodies take while they are read and what is left of it, what replies
take that nobody reads and bodies that do not end. A part of tests/bench/run."""

import json
import socket
import threading
import time
from pathlib import Path

import targets
from servers import status_kib
from table import Section, at_most

MIB = 1 << 20
REPLY = 8_000_000
SECONDS = 8  # for what clients hold to come in

AGENT = """
[agent]
command = ["sh", "-c", "head -c %d /dev/zero | tr '\\\\0' x"]
[http]
listen = "127.0.0.1:0"
"""


def filled(before, unit, after):
    """A body of 1 MiB with as many of this in it as there is room for."""
    count = (MIB - len(before) - len(after)) // (len(unit) + 1)
    return (before + ",".join([unit] * count) + after).encode()


HI = '{"messages":[{"role":"user","content":"hi"}],'
BOMBS = (
    filled(HI + '"zz":[', '{"":0}', "]}"),
    filled(HI + '"zz":[', '{"":{"":0}}', "]}"),
    filled(HI + '"zz":[', "0", "]}"),
    (HI + '"zz":' + "[" * (MIB // 2) + "]" * (MIB // 2 - 100)).encode(),
)


class Measured:
    """A gateway that runs, by its memory in MiB."""

    def __init__(self, gateway):
        self.gateway = gateway
        gateway.start()
        self.address, self.key = gateway.address(), gateway.key()
        self.ask("GET", "/v1/models")
        self.idle = self.resident()

    def resident(self, name="VmRSS"):
        return status_kib(self.gateway.pid, name) / 1024

    def reset_peak(self):
        Path(f"/proc/{self.gateway.pid}/clear_refs").write_text("5")
        return self.resident()

    def send(self, method, path, body=b"", short_by=0):
        """A request of which so many bytes are kept back; its connection."""
        host, port = self.address.rsplit(":", 1)
        stream = socket.create_connection((host, int(port)), timeout=30)
        kind = "Content-Type: application/json\r\n" if body else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}"
            f"Authorization: Bearer {self.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        stream.sendall(head.encode())
        try:
            stream.sendall(body[: len(body) - short_by])
        except OSError:
            pass  # answered before its end, or not taken in time
        return stream

    def ask(self, method, path, body=b""):
        with self.send(method, path, body) as stream:
            try:
                return b"".join(iter(lambda: stream.recv(65536), b""))
            except OSError:
                return b""

    def bodies(self, body, clients):
        """The peak over what there was before, while so many send this, once each."""
        before = self.reset_peak()
        threads = [
            threading.Thread(target=self.ask, args=("POST", "/v1/chat/completions", body))
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.resident("VmHWM") - before

    def unread(self, count):
        """The peak while so many ask for a long reply and read nothing."""
        posted = self.ask("POST", "/v1/sessions/s/messages?wait=60", b'{"text":"x"}')
        message = json.loads(posted[posted.index(b"\r\n\r\n") :])["id"]
        self.reset_peak()
        open_ones = [self.send("GET", f"/v1/messages/{message}") for _ in range(count)]
        time.sleep(SECONDS)
        for stream in open_ones:
            stream.close()
        return self.resident("VmHWM") - self.idle

    def stalled(self, count):
        """The peak while so many bodies of 1 MiB lack their end."""
        self.reset_peak()
        open_ones = []

        def send():
            open_ones.append(self.send("POST", "/v1/chat/completions", BOMBS[0], short_by=10))

        threads = [threading.Thread(target=send, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        # Those that are not taken in time stay where they are.
        deadline = time.monotonic() + SECONDS
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        for stream in list(open_ones):
            stream.close()
        return self.resident("VmHWM") - self.idle


def measure(bench, table):
    echoes = bench.gateways("echo")
    for gateway in echoes.values():
        gateway.argv.append("--ephemeral")
    longs = bench.gateways("long")
    for gateway in longs.values():
        gateway.configure(AGENT % REPLY)
    section = Section("memory in the hands of clients", echoes)
    rows = {}
    for name, gateway in echoes.items():
        measured = Measured(gateway)
        for clients in (1, 60):
            peak = max(measured.bodies(body, clients) for body in BOMBS)
            what = f"peak RSS of {clients} bod{'y' if clients == 1 else 'ies'} of 1 MiB, MiB"
            rows.setdefault((what, targets.MAX_PEAK_RATIO * clients), {})[name] = peak
        for _ in range(100):
            left = measured.resident() * 1.048576
            if left <= targets.MAX_LEFT_MB:
                break
            time.sleep(0.1)
        rows.setdefault(("RSS 10 s later, MB", targets.MAX_LEFT_MB), {})[name] = left
        gateway.kill()
    # Beside the budget, what the connections take.
    limit = targets.MAX_BUFFERED_MIB + targets.MAX_BESIDE_MIB
    for name, gateway in longs.items():
        measured = Measured(gateway)
        for what, peak in (
            ("peak RSS of 12 replies of 8 MB that nobody reads, MiB", measured.unread(12)),
            ("peak RSS of 250 bodies of 1 MiB that do not end, MiB", measured.stalled(250)),
        ):
            rows.setdefault((what, limit), {})[name] = peak
        gateway.kill()
    for (what, limit), found in rows.items():
        section.row(what, found, 1, [at_most(found["gateway"], limit)])
    table.add(section)
