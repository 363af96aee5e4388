"""Memory after many messages, a part of tests/bench/run."""

import statistics
import time

import targets
from durable import TEXT
from servers import output
from table import Section, at_most

FEW = 10_000  # messages


def measure(bench, table):
    counts = (FEW, 3 * FEW if bench.quick else 10 * FEW)
    gateways = bench.gateways("growth", on_disk=True)
    found = {count: {} for count in counts}
    for name, gateway in gateways.items():
        gateway.start()
        address, key, posted = gateway.address(), gateway.key(), 0
        for count in counts:
            output(bench.tools["post"], address, key, 16, count - posted, TEXT, "?wait=20")
            posted = count
            # A compaction may be under way.
            samples = []
            for _ in range(20):
                samples.append(gateway.rss_mib())
                time.sleep(0.1)
            found[count][name] = statistics.median(samples)
        gateway.kill()
    section = Section("RSS, MiB", gateways)
    few, many = found.values()
    section.row(f"after {counts[0]:,} messages", few, 2)
    limit = targets.MAX_GROWTH * few["gateway"] + 1
    words = f"{targets.MAX_GROWTH:g} × that + 1"
    section.row(f"after {counts[1]:,}", many, 2, [at_most(many["gateway"], limit, words)])
    table.add(section)
