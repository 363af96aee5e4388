"""Starts with a large journal, a part of tests/bench/run."""

import statistics

import journals
import targets
from durable import TEXT, accepting
from servers import die
from table import Section, at_most

LIVE = 100_000  # records that a start has to read


def waiting(count):
    """Messages that all wait, a hundred in each session."""
    at = journals.now()
    for n in range(1, count + 1):
        fields = {"principal": "owner", "session": f"s{n // 100}", "text": "x" * TEXT}
        yield "accepted", {"id": journals.id_of(at, n), "at": at} | fields


def measure(bench, table):
    gateways = accepting(bench, "recovery")
    contents = journals.journal(waiting(LIVE))
    empty, full = ({name: [] for name in gateways} for _ in range(2))
    for number in range((3 if bench.quick else 10) + 1):
        for name, gateway in gateways.items():
            gateway.forget()
            took = gateway.start()
            gateway.kill()
            # Killed in a turn, so each start is given the same.
            journals.put(gateway, contents)
            again = gateway.start()
            waits = gateway.status()["journal"]
            if waits["queued"] + waits["running"] != LIVE:
                die(f"of {LIVE} records {name} found {waits}")
            gateway.kill()
            if number:
                empty[name].append(took)
                full[name].append(again)
    section = Section("exec to READY, ms", gateways)
    for label, samples, most in (
        ("without a state directory", empty, None),
        (f"{LIVE:,} live records, {len(contents) / 1e6:.0f} MB", full, targets.MAX_RECOVERY_MS),
    ):
        took = {name: statistics.median(each) for name, each in samples.items()}
        section.row(label, took, 1, [at_most(took["gateway"], most)])
    table.add(section)
