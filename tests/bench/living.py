"""Turns through an agent that stays, beside turns through cat, a part of tests/bench/run: how long one takes
at its client, what the gateway computes for it, and what a session takes of its memory."""

import json
import statistics
import subprocess
import sys
import time

import client
import targets
from servers import status_kib
from table import Section, at_least, at_most

ECHO = '''
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    number, method, params = message.get("id"), message.get("method"), message.get("params")
    if method == "initialize":
        result = {"protocolVersion": 1, "agentCapabilities": {"loadSession": True}}
    elif method == "session/new":
        result = {"sessionId": f"s{number}"}
    elif method == "session/prompt":
        update = {"sessionUpdate": "agent_message_chunk", "content": params["prompt"][0]}
        params = {"sessionId": params["sessionId"], "update": update}
        print(json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params}))
        result = {"stopReason": "end_turn"}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)
'''
CAT = 'agent.command=["/bin/cat"]'
BURST = 10  # turns in a row


class Measured:
    """A gateway that runs, and a client of it."""

    def __init__(self, gateway):
        gateway.argv.append("--ephemeral")
        gateway.start()
        self.gateway, self.connection = gateway, client.connect(gateway)
        self.headers, self.body = client.headers(gateway), json.dumps(client.BODY)

    def turn(self, session):
        """The microseconds of one."""
        of_session = {"X-Hermes-Session-Id": session} if session else {}
        began = time.perf_counter()
        client.ask(self.connection, self.headers | of_session, client.CHAT, self.body)
        return (time.perf_counter() - began) * 1e6

    def cpu_us(self):
        """Of the gateway alone, also in threads that have ended: its CPU clock, clock_getcpuclockid(3)."""
        return time.clock_gettime_ns((~self.gateway.pid << 3) | 2) / 1000

    def session_kb(self, count):
        """What each of so many new sessions adds."""
        before = self.anonymous_kb()
        for number in range(count):
            self.turn(f"memory-{number}")
        return (self.anonymous_kb() - before) / count

    def anonymous_kb(self):
        return status_kib(self.gateway.pid, "Anonymous", "smaps_rollup") * 1.024


def knows_it(binary):
    """Whether this version has agents that stay."""
    words = [binary, "config", "check", "--set", "agent.protocol=acp", "--set", CAT]
    return subprocess.run(words, capture_output=True, timeout=60).returncode == 0


def measure(bench, table):
    agent = bench.place / "echo.py"
    agent.write_text(ECHO)
    command = json.dumps([sys.executable, "-I", "-S", str(agent)])
    settings = [f"agent.command={command}", "agent.protocol=acp"]
    names = [name for name, binary in bench.binaries.items() if name == "gateway" or knows_it(binary)]
    gateways = {name: bench.gateway(name, "living", settings) for name in names}
    gateways["cat"] = bench.gateway("gateway", "cat", [CAT])
    servers = {name: Measured(gateway) for name, gateway in gateways.items()}
    section = Section("an agent that stays; cat", servers)
    for session in ("s", None):
        samples, rounds = {name: [] for name in servers}, 5 if bench.quick else 40
        for number in range(rounds + 1):
            for name, server in servers.items():
                before = server.cpu_us()
                times = [server.turn(session) for _ in range(BURST)]
                # The first round starts the agents, and begins the session.
                if number:
                    cpu = (server.cpu_us() - before) / BURST
                    samples[name].append((statistics.median(times), cpu))
        found = client.medians(samples)
        took, cpu = ({name: each[n] for name, each in found.items()} for n in range(2))
        rates = {name: 1e6 / each for name, each in took.items()}
        what = "in a session" if session else "without a session"
        least = at_least(rates["gateway"], targets.MIN_STAYING, rates["cat"], "cat")
        section.row(f"turns per second, {what}", rates, 0, [least])
        section.ratios(rates)
        most = at_most(cpu["gateway"], targets.MAX_STAYING_US)
        section.row("  CPU of the gateway alone, µs", cpu, 1, [most])
    count = 100 if bench.quick else 1000
    kept = {name: server.session_kb(count) for name, server in servers.items()}
    section.row("memory a session, kB", kept, 1)
    table.add(section)
