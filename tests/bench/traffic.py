"""Requests, a part of tests/bench/run: how many a second, what CPU time and how many instructions each
takes, of /health and of chats through each kind of agent."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import client
import peers
import targets
from client import CHAT
from table import Section, at_least, at_most

CONNECTIONS = 16
SPAWNING = 4  # connections whose turns start a process
MANY = "limits.max_turns=64"


def collected(bench, make, what, target, count):
    """Instructions of a server's whole run with so many requests, in user space."""
    log = bench.place / f"{what}.callgrind"
    under = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}"]
    under.append("--child-silent-after-fork=yes")
    server = make(what, under=under)
    server.start()
    connection = client.connect(server)
    body, headers = (json.dumps(client.BODY), client.headers(server)) if target == CHAT else (None, {})
    for _ in range(count):
        client.ask(connection, headers, target, body)
    server.terminate()
    return int(re.search(r"Collected : (\d+)", log.read_text())[1])


def instructions(bench, what, makers, target):
    """Of one request, by two runs: whatever starts and ends a server is in both."""
    count = 50 if bench.quick else 400
    if bench.quick:
        makers = {name: make for name, make in makers.items() if name in bench.binaries}
    # They are counted, not timed: all processors may be busy.
    pool = ThreadPoolExecutor(2)
    try:
        jobs = {
            (name, times): pool.submit(
                collected,
                bench,
                make,
                directory(what, name, times),
                target_of(name, target),
                count * times,
            )
            for name, make in makers.items()
            for times in (1, 2)
        }
        counts = {job: future.result() for job, future in jobs.items()}
        return {name: (counts[name, 2] - counts[name, 1]) / count for name in makers}
    finally:
        pool.shutdown(cancel_futures=True)


def directory(*words):
    return re.sub(r"\W+", "-", "-".join(map(str, words)))


def target_of(name, target):
    """The bare server has no chats."""
    return "/health" if name == "/health" else target


class Row:
    """Servers that answer the same requests, or what is nearest to them."""

    def __init__(self, title, target, makers, connections=CONNECTIONS):
        self.what, self.target, self.makers = title.strip("/").split()[0], target, makers
        self.title, self.connections = f"{title}, {connections} connections", connections

    def measure(self, bench, judge, notes=(), counted=True):
        """The servers take turns in each round; a section of the medians."""
        servers = {name: make(directory(self.what, name)) for name, make in self.makers.items()}
        for server in servers.values():
            server.start()
        samples = {name: [] for name in servers}
        rounds, seconds = (1, 1) if bench.quick else (5, 3)
        for _ in range(rounds):
            for name, server in servers.items():
                target = target_of(name, self.target)
                samples[name].append(client.wrk(bench, server, target, self.connections, seconds))
        for server in servers.values():
            server.kill()
        found = client.medians(samples)
        rates = {name: rate for name, (rate, _, _) in found.items()}
        took = {name: user + system for name, (_, user, system) in found.items()}
        of_rates, of_cpu = judge(rates, took)
        section = Section(self.title, self.makers)
        section.row("requests per second", rates, 0, of_rates)
        section.ratios(rates)
        section.row("CPU per request, µs", took, 1, of_cpu)
        parts = {name: f"{user:.1f} + {system:.1f}" for name, (_, user, system) in found.items()}
        section.row("  user + system", parts)
        totals = {name: [user + system for _, user, system in each] for name, each in samples.items()}
        if rounds > 1:
            section.row("  spread of the rounds, %", client.spread(totals))
        section.ratios(took)
        if counted and shutil.which("valgrind"):
            counts = instructions(bench, self.what, self.makers, self.target)
            section.row("instructions per request", counts)
            section.ratios(counts)
        elif counted:
            section.note("instructions: not measured: valgrind is not installed")
        for note in notes:
            section.note(note)
        return section


def measure(bench, table):
    if not client.has_wrk():
        section = Section("requests", [])
        section.note("not measured: wrk is not installed")
        return table.add(section)

    upstream = bench.bare("upstream", [bench.tools["proxy"]])
    upstream.start()
    address = upstream.address()
    others, notes = peers.proxies(bench, address)

    def gateways(*settings):
        return {name: partial(bench.gateway, name, settings=settings) for name in bench.binaries}

    def bare(*argv):
        return partial(bench.bare, argv=argv)

    def health(rates, took):
        return [at_least(rates["gateway"], targets.MIN_HEALTH, rates["bare"], "bare")], []

    makers = gateways() | {"bare": bare(bench.tools["bare"])} | others
    table.add(Row("/health", "/health", makers).measure(bench, health, notes))

    def proxied(rates, took):
        ours = rates["gateway"]
        least = [at_least(ours, targets.MIN_PROXY, rates["bare proxy"], "bare proxy")]
        least.append(at_least(ours, targets.MIN_NGINX, rates.get("nginx"), "nginx"))
        return least, [at_most(took["gateway"], targets.MAX_UPSTREAM_US)]

    makers = gateways(MANY, f"agent.url=http://{address}/v1")
    makers |= {"bare proxy": bare(bench.tools["proxy"], address)} | others
    table.add(Row("upstream chat", CHAT, makers).measure(bench, proxied, notes))
    upstream.kill()

    def echo(rates, took):
        return [at_least(rates["gateway"], targets.MIN_ECHO, rates["/health"], "bare /health")], []

    makers = gateways(MANY) | {"/health": bare(bench.tools["bare"])}
    note = "/health: the bare server's, which has no chats"
    table.add(Row("echo chat", CHAT, makers).measure(bench, echo, [note]))

    def command(rates, took):
        return [at_least(rates["gateway"], targets.MIN_COMMAND, rates["bare spawn"], "bare spawn")], []

    makers = gateways(MANY, 'agent.command=["/bin/cat"]') | {"bare spawn": bare(bench.tools["spawn"])}
    row = Row("command turn (cat)", CHAT, makers, SPAWNING)
    table.add(row.measure(bench, command, counted=False))
