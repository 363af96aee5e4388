"""Starts and stops, a part of tests/bench/run, with what an idle server takes."""

import os

import client
import targets
from servers import status_kib
from table import Section, at_most


def measure(bench, table):
    servers = bench.gateways("life") | {"bare": bench.bare("life-bare", [bench.tools["bare"]])}
    rounds = 5 if bench.quick else 40
    samples = {name: [] for name in servers}
    for number in range(rounds + 1):
        for name, server in servers.items():
            start = server.start()
            server.at_rest()
            memory = (server.rss_mib(), pss_mb(server.pid))
            # The first round makes the state directory and warms the page cache.
            stop = server.stop()
            if number:
                samples[name].append((start, stop, *memory))
    found = client.medians(samples)
    start, stop, rss, pss = ({name: each[n] for name, each in found.items()} for n in range(4))
    section = Section("start, stop, idle", servers)
    size = {name: os.path.getsize(server.argv[0]) / 1000 for name, server in servers.items()}
    section.row("binary, kB", size, 0, [at_most(size["gateway"], targets.MAX_BINARY_KB)])
    for label, values, most in (
        ("exec to READY, ms", start, targets.MAX_START_RATIO),
        ("SIGTERM to exit, no systemd, ms", stop, targets.MAX_STOP_RATIO),
    ):
        target = at_most(values["gateway"], most * values["bare"], f"{most:g} × bare")
        section.row(label, values, 2, [target])
        section.ratios(values)
    section.row("RSS, MiB", rss, 2)
    section.row("PSS, MB", pss, 2, [at_most(pss["gateway"], targets.MAX_PSS_MB)])
    table.add(section)


def pss_mb(pid):
    return status_kib(pid, "Pss", "smaps_rollup") * 1024 / 1e6
