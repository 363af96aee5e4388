"""Memory in the hands of clients: what bodies take while they are read and what is left of it, what replies
take that nobody reads and bodies that do not end. A part of tests/bench/run."""

import json
import re
import socket
import threading
import time
from pathlib import Path

MIB = 1 << 20
MAX_PEAK_RATIO = 4.0  # of what came in
MAX_IDLE_MB = 4.0  # ten seconds later
MAX_BUFFERED_MIB = 64.0  # limits.max_buffered
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
        status = Path(f"/proc/{self.gateway.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1]) / 1024

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


def measure(table, binary, place, kind):
    def gateway(name, *more):
        home = place / name
        home.mkdir(mode=0o700)
        return kind("gateway", [binary, "run", *more], home)

    one = gateway("echo", "--ephemeral", "--set", "http.listen=127.0.0.1:0")
    two = gateway("long")
    config = place / "long/c/hermes-gateway/default.toml"
    config.parent.mkdir(mode=0o700)
    config.write_text(AGENT % REPLY)
    try:
        measured = Measured(one)
        for clients in (1, 60):
            peak = max(measured.bodies(body, clients) for body in BOMBS)
            limit = MAX_PEAK_RATIO * clients
            what = f"peak RSS of {clients} bod{'y' if clients == 1 else 'ies'} of 1 MiB, MiB"
            table.add(what, f"{peak:.1f}", "", f"≤ {limit:g}", peak <= limit)
        for _ in range(100):
            left = measured.resident() * 1.048576
            if left <= MAX_IDLE_MB:
                break
            time.sleep(0.1)
        table.add("RSS 10 s later, MB", f"{left:.2f}", "", f"≤ {MAX_IDLE_MB:g}", left <= MAX_IDLE_MB)
        one.kill()
        measured = Measured(two)
        for what, peak in (
            ("peak RSS of 12 replies of 8 MB that nobody reads, MiB", measured.unread(12)),
            ("peak RSS of 250 bodies of 1 MiB that do not end, MiB", measured.stalled(250)),
        ):
            # Beside the budget, 24 kB a connection.
            limit = MAX_BUFFERED_MIB + 8
            table.add(what, f"{peak:.1f}", "", f"≤ {limit:g}", peak <= limit)
    finally:
        one.kill()
        two.kill()
