"""Turns through an agent that stays, beside turns through cat, a part of tests/bench/run: how many there are a
second, what the gateway computes for one, and what a session takes of its memory. Client and agent are programs
that do next to nothing (chat.rs, staying.rs)."""

import json
import subprocess
import time

import client
import targets
from servers import output, status_kib
from table import Section, at_least, at_most

CAT = 'agent.command=["/bin/cat"]'
CLIENTS = (1, 4)


class Measured:
    """A gateway that runs, and its clients."""

    def __init__(self, gateway, chat):
        gateway.argv.append("--ephemeral")
        gateway.start()
        self.gateway, self.chat = gateway, [chat, gateway.address(), gateway.key()]

    def turns(self, clients, count, session):
        """Turns per second, and the microseconds of the gateway that each took."""
        before = self.cpu_us()
        seconds = float(output(*self.chat, clients, count, session))
        return count / seconds, (self.cpu_us() - before) / count

    def cpu_us(self):
        """Of the gateway alone, also in threads that have ended: its CPU clock, clock_getcpuclockid(3)."""
        return time.clock_gettime_ns((~self.gateway.pid << 3) | 2) / 1000

    def session_kb(self, count):
        """What each of so many new sessions adds."""
        before, connection = self.anonymous_kb(), client.connect(self.gateway)
        headers, body = client.headers(self.gateway), json.dumps(client.BODY)
        for number in range(count):
            of_session = {"X-Hermes-Session-Id": f"memory-{number}"}
            client.ask(connection, headers | of_session, client.CHAT, body)
        return (self.anonymous_kb() - before) / count

    def anonymous_kb(self):
        return status_kib(self.gateway.pid, "Anonymous", "smaps_rollup") * 1.024


def knows_it(binary):
    """Whether this version has agents that stay."""
    words = [binary, "config", "check", "--set", "agent.protocol=acp", "--set", CAT]
    return subprocess.run(words, capture_output=True, timeout=60).returncode == 0


def measure(bench, table):
    settings = [f'agent.command=["{bench.tools["staying"]}"]', "agent.protocol=acp"]
    names = [name for name, binary in bench.binaries.items() if name == "gateway" or knows_it(binary)]
    gateways = {name: bench.gateway(name, "living", settings) for name in names}
    gateways["cat"] = bench.gateway("gateway", "cat", [CAT])
    servers = {name: Measured(gateway, bench.tools["chat"]) for name, gateway in gateways.items()}
    section = Section("an agent that stays; cat", servers)
    rounds, count = (3, 100) if bench.quick else (15, 400)
    for clients in CLIENTS:
        for session in ("s", ""):
            samples = {name: [] for name in servers}
            for number in range(rounds + 1):
                for name, server in servers.items():
                    sample = server.turns(clients, count, session)
                    # The first round starts the agents, and begins the sessions.
                    if number:
                        samples[name].append(sample)
            found = client.medians(samples)
            rates, cpu = ({name: each[n] for name, each in found.items()} for n in range(2))
            what = f"{'in a session' if session else 'without a session'}, {clients} at once"
            least = at_least(rates["gateway"], targets.MIN_STAYING, rates["cat"], "cat")
            section.row(f"turns per second, {what}", rates, 0, [least])
            section.ratios(rates)
            most = at_most(cpu["gateway"], targets.MAX_STAYING_US)
            section.row("  CPU of the gateway alone, µs", cpu, 1, [most])
    count = 100 if bench.quick else 1000
    kept = {name: server.session_kb(count) for name, server in servers.items()}
    section.row("memory a session, kB", kept, 1)
    table.add(section)
