"""Durable accepts per second, a part of tests/bench/run, beside what else answers only once a record is on
the disk: the same disk for all of them."""

import multiprocessing
import sqlite3
import statistics
import threading
import time
from functools import partial

import peers
import targets
from servers import DEADLINE, die, output
from table import Section, at_least

CLIENTS = (1, 16, 64)
TEXT = 100  # bytes of a message
# Turns do not compete with accepts: the only one that runs sleeps.
CONFIG = """
[agent]
command = ["sleep", "600"]
turn_timeout = "20m"
[http]
listen = "127.0.0.1:0"
[limits]
max_turns = 1
max_queue = 100000
max_queue_per_session = 100000
max_connections = 200
"""
# What the gateway's record of an accepted message has in it.
COLUMNS = "id text, at bigint, principal text, session text, text text"
INSERT = "insert into message (id, at, principal, session, text) values"


def accepting(bench, what):
    """Gateways that accept and do nothing else."""
    gateways = bench.gateways(what, on_disk=True)
    for gateway in gateways.values():
        gateway.configure(CONFIG)
    return gateways


def with_cpu(server, count, rate):
    """Its rate, and microseconds of CPU for each of so many."""
    before = sum(server.cpu())
    return rate(), (sum(server.cpu()) - before) / count * 1e6


def accepts(bench, gateway, clients, count):
    """Durable accepts per second, and microseconds of CPU for each."""
    gateway.forget()
    gateway.start()
    post = [bench.tools["post"], gateway.address(), gateway.key(), clients, count, TEXT, ""]
    found = with_cpu(gateway, count, lambda: count / float(output(*post)))
    gateway.kill()
    return found


def loop(bench, count, size, *how):
    """Appends of a record's size, each with a sync, per second."""
    path = bench.disk / "appended"
    took = float(output(bench.tools["append"], path, count, size, *how))
    path.unlink()
    return count / took


def record_size(bench, gateway):
    """Bytes that a message takes in a journal, by two of them that differ in nothing else."""
    sizes = []
    for count in (100, 200):
        gateway.forget()
        gateway.start()
        output(bench.tools["post"], gateway.address(), gateway.key(), 1, count, TEXT, "")
        contents = gateway.journal().read_bytes()
        # Room that was reserved is not a record.
        sizes.append(len(contents.rstrip(b"\0")))
        gateway.kill()
    return (sizes[1] - sizes[0]) // 100


# -------------------------------------------------------------------------- SQLite ----


def database(disk):
    """A new database in WAL mode."""
    for path in disk.glob("messages.db*"):
        path.unlink()
    path = disk / "messages.db"
    with_wal(path).execute(f"create table message (number integer primary key, {COLUMNS})")
    return path


def with_wal(path):
    # Each statement is a transaction of its own; whoever finds the database busy waits.
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    if connection.execute("pragma journal_mode=wal").fetchone() != ("wal",):
        die("no WAL mode")
    connection.execute("pragma synchronous=full")
    return connection


def insert(connection, number):
    row = (f"{number:026}", time.time_ns() // 1_000_000, "owner", "s", "x" * TEXT)
    connection.execute(f"{INSERT} (?,?,?,?,?)", row)


def sqlite_shared(disk, clients, count):
    """Inserts per second by threads that take turns on one connection."""
    connection, lock = with_wal(database(disk)), threading.Lock()

    def client():
        for number in range(count // clients):
            with lock:
                insert(connection, number)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    connection.close()
    return (count // clients) * clients / took


def sqlite_apart(disk, clients, count):
    """Inserts per second by processes with a connection each."""
    path = database(disk)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(clients + 1)

    def client():
        connection = with_wal(path)
        barrier.wait(DEADLINE)
        for number in range(count // clients):
            insert(connection, number)

    processes = [context.Process(target=client, daemon=True) for _ in range(clients)]
    for process in processes:
        process.start()
    try:
        barrier.wait(DEADLINE)
    except threading.BrokenBarrierError:
        die("SQLite: a client did not come")
    began = time.monotonic()
    for process in processes:
        process.join(10 * DEADLINE)
    if any(process.exitcode != 0 for process in processes):
        die("SQLite: an insert failed")
    return (count // clients) * clients / (time.monotonic() - began)


# ------------------------------------------------------------------------ the part ----


def postgres(bench):
    server = bench.add(peers.Postgres(bench))
    server.start()
    server.prepare(
        f"create table message (number bigserial primary key, {COLUMNS})",
        f"{INSERT} ('{0:026}', {time.time_ns() // 1_000_000}, 'owner', 's', '{'x' * TEXT}')",
    )
    return server


def nats(bench):
    server = bench.add(peers.Nats(bench))
    server.start()
    return server


def measure(bench, table):
    gateways = accepting(bench, "durable")
    others, notes = peers.installed(
        ("Postgres", lambda: postgres(bench)), ("NATS", lambda: nats(bench))
    )
    count = 1000 if bench.quick else 3000
    size = record_size(bench, gateways["gateway"])
    rounds = 2 if bench.quick else 5
    section = Section("durable accepts", [*gateways, "loop", "asked", "SQLite", *others])
    for clients in CLIENTS:
        many = count * (1 if clients == 1 else 4)
        samples = {}

        def sample(name, rate, cpu=None):
            samples.setdefault(name, []).append((rate, cpu))

        for _ in range(rounds):
            for name, gateway in gateways.items():
                sample(name, *accepts(bench, gateway, clients, many))
            sample("loop", loop(bench, count, size))
            sample("asked", loop(bench, count, size, "asked"))
            # Its clients wait for each other either way: the better way counts.
            sample("shared", sqlite_shared(bench.disk, clients, count))
            if clients > 1:
                sample("apart", sqlite_apart(bench.disk, clients, count))
            for name, server in others.items():
                rate = partial(server.rate, clients, many, size)
                sample(name, *with_cpu(server, many, rate))
        found, cpu = {}, {}
        for name, each in samples.items():
            rates, took = zip(*each, strict=True)
            found[name] = statistics.median(rates)
            if took[0] is not None:
                cpu[name] = statistics.median(took)
        found["SQLite"] = max(found.pop("shared"), found.pop("apart", 0))
        report(section, clients, found, cpu)
    section.note("asked: the loop where a client asks for each turn over TCP and waits for the answer")
    section.note("SQLite: the better of threads that share a connection and processes with one each")
    if "Postgres" in others:
        section.note("Postgres: its CPU time includes the connections, a process each")
    for note in notes:
        section.note(note)
    for server in others.values():
        server.kill()
    table.add(section)


def report(section, clients, found, cpu):
    ours, least = found["gateway"], []
    if clients == min(CLIENTS):
        least = [at_least(ours, targets.MIN_LOOP, found["loop"], "loop")]
    if clients == max(CLIENTS):
        least = [
            at_least(ours, targets.MIN_SQLITE, found["SQLite"], "SQLite"),
            at_least(ours, targets.MIN_POSTGRES, found.get("Postgres"), "Postgres"),
        ]
    section.row(f"{clients} client{'s' * (clients > 1)}, per second", found, 0, least)
    section.ratios(found)
    section.row("  CPU for each, µs", cpu, 1)
