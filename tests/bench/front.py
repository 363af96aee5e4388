"""What the gateway adds to the time of an answer, a part of tests/bench/run: at a steady rate that is far
from the limit, and between an agent's first byte and the client's."""

import json
import re
import statistics
import time

import client
import peers
import targets
from servers import die, output
from table import Section, at_most
from traffic import MANY

RATE = 1000  # requests per second
CONNECTIONS = 16


def added(bench, table):
    upstream = bench.bare("upstream", [bench.tools["proxy"]])
    upstream.start()
    others, notes = peers.proxies(bench, upstream.address())
    url = f"agent.url=http://{upstream.address()}/v1"
    servers = bench.gateways("added", [MANY, url])
    servers["bare proxy"] = bench.bare("proxy", [bench.tools["proxy"], upstream.address()])
    servers |= {name: make(name) for name, make in others.items()}
    for server in servers.values():
        server.start()
    servers = {"direct": upstream} | servers
    samples = {name: [] for name in servers}
    rounds, seconds = (2, 1) if bench.quick else (9, 2)
    body = json.dumps(client.BODY)
    for _ in range(rounds):
        for name, server in servers.items():
            paced = [bench.tools["paced"], server.address(), client.CHAT, client.key_of(server), body]
            said = output(*paced, CONNECTIONS, RATE, seconds)
            samples[name].append(tuple(map(float, said.split())))
    for server in servers.values():
        server.kill()
    found = client.medians(samples)
    section = Section(f"upstream chat, steady {RATE:,} per second", servers)
    for n, what in enumerate(("p50", "p99")):
        direct = found["direct"][n]
        section.row(f"answer, {what}, µs", {name: each[n] for name, each in found.items()})
        beside = {name: each[n] - direct for name, each in found.items() if name != "direct"}
        limit = beside["nginx"] + targets.MAX_ADDED_US if "nginx" in beside and n == 0 else None
        words = f"nginx + {targets.MAX_ADDED_US:g}"
        section.row("  added", beside, 0, [at_most(beside["gateway"], limit, words)])
    for note in notes:
        section.note(note)
    table.add(section)


def first_byte(gateway, turns):
    """Milliseconds from an agent's first byte to the client's, for so many streamed turns."""
    found = []
    connection, headers = client.connect(gateway), client.headers(gateway)
    for _ in range(turns):
        connection.request("POST", client.CHAT, json.dumps(client.BODY | {"stream": True}), headers)
        response, text = connection.getresponse(), b""
        while not (stamp := re.search(rb'"content":"(\d+)"', text)):
            piece = response.read1(65536)
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            if not piece:
                die(f"no stamp: {text}")
            text += piece
        found.append((now - int(stamp[1])) / 1e6)
        response.read()
    return statistics.median(found), statistics.quantiles(found, n=100)[98]


def streamed(bench, table):
    gateways = bench.gateways("stamp", [f'agent.command=["{bench.tools["stamp"]}"]'])
    for gateway in gateways.values():
        gateway.start()
    samples = {name: [] for name in gateways}
    for _ in range(1 if bench.quick else 5):
        for name, gateway in gateways.items():
            samples[name].append(first_byte(gateway, 50 if bench.quick else 100))
    found = client.medians(samples)
    median, worst = ({name: each[n] for name, each in found.items()} for n in (0, 1))
    section = Section("first byte of a stream", gateways)
    label = "after the agent's, p50, ms"
    section.row(label, median, 2, [at_most(median["gateway"], targets.MAX_FIRST_MS)])
    section.row("  p99", worst, 2)
    table.add(section)


def measure(bench, table):
    added(bench, table)
    streamed(bench, table)
