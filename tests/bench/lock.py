"""The lock's part of tests/bench/run: how long a request of another waits while one client does all
that is long: resets of many messages, replays, lists and compactions of a large journal."""

import http.client
import multiprocessing
import socket
import statistics
import time

MESSAGES = 60_000  # each with three records, twenty in each session
MAX_HOLD_MS = 10.0
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def text_of(value):
    text = ""
    for _ in range(26):
        text, value = DIGITS[value & 31] + text, value >> 5
    return text


def write(path, record, count):
    """A journal of messages with idempotency keys, all answered; they are known for a day."""
    now = time.time_ns() // 1_000_000
    lines = [record(0, format="hermes-gateway journal", version=2, base=1, kept=0)]
    for n in range(count):
        id, number = text_of(now << 80 | n + 1), len(lines)
        at = {"id": id, "at": now}
        fields = {"principal": "owner", "session": f"s{n % (count // 20)}", "text": "x" * 30}
        fields |= {"key": f"{n:032x}", "body": "7"}
        lines.append(record(number, t="accepted", **at, **fields, d=number - 1))
        lines.append(record(number + 1, t="started", id=id, n=1, at=now, d=number))
        lines.append(record(number + 2, t="done", id=id, n=1, at=now, reply="x" * 30, d=number + 1))
    path.write_text("".join(lines))
    path.chmod(0o600)


def ask(connection, headers, method, target):
    """The milliseconds that an answer takes."""
    began = time.monotonic()
    connection.request(method, target, headers=headers)
    connection.getresponse().read()
    return (time.monotonic() - began) * 1000


def attack(kind, address, key, sessions):
    host, port = address.split(":")
    headers = {"Authorization": f"Bearer {key}"}
    connection, n = http.client.HTTPConnection(host, int(port)), 0
    while True:
        n += 1
        if kind == "reset":
            ask(connection, headers, "DELETE", f"/v1/sessions/s{n % sessions}")
        elif kind == "list":
            for target in ("/v1/sessions", f"/v1/sessions/s{n % sessions}", "/v1/status"):
                ask(connection, headers, "GET", target)
        elif kind == "compact":
            ask(connection, headers, "POST", "/v1/journal/compact")
            time.sleep(0.2)
        else:
            with socket.create_connection((host, int(port))) as stream:
                head = f"GET /v1/sessions/s{n % sessions}/events HTTP/1.1\r\nHost: {address}\r\n"
                head += f"Authorization: Bearer {key}\r\nLast-Event-ID: 1\r\n\r\n"
                stream.sendall(head.encode())
                stream.settimeout(1)
                try:
                    said = b""
                    while said.count(b"event: done") < 20 and b"event: reset" not in said:
                        said += stream.recv(65536)
                except TimeoutError:
                    pass


def longest(gateway, seconds):
    """The longest answers in milliseconds: one that takes the lock, and one that does not."""
    host, port = gateway.address().split(":")
    key, found = gateway.key(), {"lock": 0, "none": 0}
    rest = (gateway.address(), key, MESSAGES // 20)
    kinds = ("reset", "replay", "list", "compact")
    attackers = [multiprocessing.Process(target=attack, args=(kind, *rest)) for kind in kinds]
    connection = http.client.HTTPConnection(host, int(port))
    headers = {"Authorization": f"Bearer {key}"}
    targets = {"lock": f"/v1/messages/{text_of(1)}", "none": "/health"}
    try:
        for attacker in attackers:
            attacker.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, target in targets.items():
                found[name] = max(found[name], ask(connection, headers, "GET", target))
    finally:
        for attacker in attackers:
            attacker.terminate()
            attacker.join()
    return found["lock"], found["none"]


def measure(table, binary, place, disk, quick, Gateway, record):
    (place / "g").mkdir(mode=0o700)
    run = [binary, "run", "--set", "http.listen=127.0.0.1:0"]
    gateway, rounds = Gateway("gateway", run, place / "g", disk / "state"), []
    try:
        gateway.start()
        gateway.kill()
        write(gateway.journal(), record, MESSAGES)
        size, journal = gateway.journal().stat().st_size / 1e6, gateway.journal().read_bytes()
        for _ in range(3 if quick else 5):
            gateway.journal().write_bytes(journal)
            gateway.start()
            rounds.append(longest(gateway, 3 if quick else 6))
            gateway.kill()
    finally:
        gateway.kill()
    # What the machine itself makes an answer wait for is in both.
    hold = statistics.median(lock - none for lock, none in rounds)
    lock, none = (statistics.median(column) for column in zip(*rounds, strict=True))
    what = f"longest answer of the busy hub, journal of {size:.0f} MB, ms (/health)"
    table.add(what, f"{lock:.1f}", f"{none:.1f}", f"≤ that + {MAX_HOLD_MS:g}", hold <= MAX_HOLD_MS)
