"""Memory of idle connections, a part of tests/bench/run: what one takes between two requests, by what it
has asked for, and what ten thousand take."""

import json
import resource
import select
import time

import client
import peers
import targets
from servers import Gateway, die
from table import Section, at_most
from traffic import MANY

FEW, MOST = 1000, 10_000
DESCRIPTORS = 24_000  # a gateway reckons with two for a connection
RESERVED = 1000  # of them, for the rest
IDLE = "limits.idle_timeout=10m"
LARGE = {"model": "default", "messages": [{"role": "user", "content": "x" * 1_000_000}]}
# A row for each: what is asked for, and of which of the gateways.
CHAT = json.dumps(client.BODY)
ROWS = (
    ("after a GET", "echo", "/v1/models", None),
    ("after an echo chat", "echo", client.CHAT, CHAT),
    ("after an upstream chat", "upstream", client.CHAT, CHAT),
    ("after a body of 1 MB", "echo", client.CHAT, json.dumps(LARGE)),
)


def settled(server, seconds):
    """RSS in MiB, the least of a while: a server may give back what it does not need."""
    found, end = server.rss_mib(), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        found = min(found, server.rss_mib())
    return found


def idle(bench, server, count, target, body):
    """RSS in MiB before and with so many connections, each of which has had one answer."""
    server.start()
    # A connection that has shown no key would not stay; peers know none.
    if target == "/v1/models" and not isinstance(server, Gateway):
        target = "/health"
    headers = client.headers(server)
    held = [client.connect(server)]
    client.ask(held[0], headers, target, body)
    before = settled(server, 0.5)
    for _ in range(count):
        held.append(client.connect(server))
        client.ask(held[-1], headers, target, body)
    after = settled(server, 1 if bench.quick else 3)
    poll = select.poll()
    for connection in held:
        poll.register(connection.sock)
    if any(events & select.POLLIN for _, events in poll.poll(0)):
        die(f"{server.name} closed a connection")
    for connection in held:
        connection.close()
    server.kill()
    return before, after


def most_connections(bench):
    """Ten thousand, or as many as the limit on descriptors allows; fewer for a first look."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, max(hard, DESCRIPTORS)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(2 * FEW if bench.quick else MOST, (soft - RESERVED) // 2)


def measure(bench, table):
    most = most_connections(bench)
    upstream = bench.bare("upstream", [bench.tools["proxy"]])
    upstream.start()
    address = upstream.address()
    others, notes = peers.proxies(bench, address)
    common = [MANY, IDLE]
    settings = {"echo": common, "upstream": [*common, f"agent.url=http://{address}/v1"]}

    def servers(label, kind, target):
        """New ones for each row, so that none has memory of an earlier row."""
        what = label.replace(" ", "-")
        found = bench.gateways(what, settings[kind])
        if target == "/v1/models":
            found["bare"] = bench.bare(f"{what}-bare", [bench.tools["bare"]])
        elif kind == "upstream":
            found["bare"] = bench.bare(f"{what}-bare", [bench.tools["proxy"], address])
        if "nginx" in others and "bare" in found:
            found["nginx"] = others["nginx"](f"{what}-nginx")
        return found

    section = Section("an idle connection, kB", [*bench.binaries, "bare", "nginx"])
    for label, kind, target, body in ROWS:
        count = FEW // 4 if bench.quick and len(body or "") > 100_000 else FEW
        took = {}
        for name, server in servers(label, kind, target).items():
            before, after = idle(bench, server, count, target, body)
            took[name] = (after - before) * 1024 / count
        section.row(label, took, 1, [at_most(took["gateway"], targets.MAX_IDLE_KB)])
    for note in notes:
        section.note(note)
    table.add(section)

    section = Section(f"RSS with {most:,} idle connections, MB", [*bench.binaries, "bare", "nginx"])
    for label, kind, target, body in ROWS[:2]:
        found = servers(f"many {label}", kind, target)
        rss = {name: idle(bench, server, most, target, body)[1] for name, server in found.items()}
        rss = {name: mib * 1.048576 for name, mib in rss.items()}
        limit = targets.MAX_MANY_MB * most / MOST
        section.row(label, rss, 0, [at_most(rss["gateway"], limit)])
    upstream.kill()
    table.add(section)
