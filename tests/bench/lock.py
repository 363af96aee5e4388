"""The lock's part of tests/bench/run: how long a request of another waits while one client does all
that is long: resets of many messages, replays, lists and compactions of a large journal."""

import http.client
import multiprocessing
import socket
import statistics
import time

import client
import journals
import targets
from table import Section

MESSAGES = 60_000  # each with three records
SESSIONS = MESSAGES // 20


def answered():
    """Messages with idempotency keys, which are known for a day, and their answers."""
    at = journals.now()
    for n in range(MESSAGES):
        which = {"id": journals.id_of(at, n + 1)}
        fields = {"principal": "owner", "session": f"s{n % SESSIONS}", "text": "x" * 30}
        fields |= {"key": f"{n:032x}", "body": "7"}
        yield "accepted", which | {"at": at} | fields
        yield "started", which | {"n": 1, "at": at}
        yield "done", which | {"n": 1, "at": at, "reply": "x" * 30}


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
    rest = (gateway.address(), key, SESSIONS)
    kinds = ("reset", "replay", "list", "compact")
    attackers = [multiprocessing.Process(target=attack, args=(kind, *rest)) for kind in kinds]
    connection = http.client.HTTPConnection(host, int(port))
    headers = {"Authorization": f"Bearer {key}"}
    paths = {"lock": f"/v1/messages/{journals.id_of(0, 1)}", "none": "/health"}
    try:
        for attacker in attackers:
            attacker.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, path in paths.items():
                found[name] = max(found[name], ask(connection, headers, "GET", path))
    finally:
        for attacker in attackers:
            attacker.terminate()
            attacker.join()
    return found["lock"], found["none"]


def measure(bench, table):
    gateways = bench.gateways("lock", on_disk=True)
    contents = journals.journal(answered())
    rounds = {name: [] for name in gateways}
    for gateway in gateways.values():
        gateway.start()  # makes the place of the journal
        gateway.kill()
    for _ in range(3 if bench.quick else 5):
        for name, gateway in gateways.items():
            journals.put(gateway, contents)
            gateway.start()
            rounds[name].append(longest(gateway, 3 if bench.quick else 6))
            gateway.kill()
    # What the machine itself makes an answer wait for is in both.
    hold = statistics.median(lock - none for lock, none in rounds["gateway"])
    found = client.medians(rounds)
    section = Section(f"longest answer, ms, journal of {len(contents) / 1e6:.0f} MB", gateways)
    lock, none = ({name: each[n] for name, each in found.items()} for n in (0, 1))
    section.row("/health", none, 1)
    target = f"≤ /health + {targets.MAX_HOLD_MS:g}", hold <= targets.MAX_HOLD_MS
    section.row("a message, of the busy hub", lock, 1, [target])
    table.add(section)
