"""Clients of the servers that tests/bench/run measures: wrk, and one in Python."""

import http.client
import json
import re
import shutil
import statistics

from servers import DEADLINE, Gateway, die, output

CHAT = "/v1/chat/completions"
BODY = {"model": "default", "messages": [{"role": "user", "content": "hello there"}]}


def has_wrk():
    return shutil.which("wrk") is not None


def key_of(server):
    """Peers take any."""
    return server.key() if isinstance(server, Gateway) else "x"


def headers(server):
    return {"Authorization": f"Bearer {key_of(server)}", "Content-Type": "application/json"}


def connect(server):
    host, port = server.address().split(":")
    return http.client.HTTPConnection(host, int(port), timeout=DEADLINE)


def ask(connection, server_headers, target, body=None):
    """A request of this connection: a POST if it has a body."""
    connection.request("POST" if body else "GET", target, body, server_headers)
    response = connection.getresponse()
    text = response.read()
    if response.status // 100 != 2:
        die(f"{target}: {response.status} {text[:500]}")
    return text


def wrk(bench, server, target, connections, seconds):
    """Requests per second, and microseconds of user and of system time that each takes."""
    command = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    if target == CHAT:
        script = bench.place / "chat.lua"
        body = json.dumps(BODY).replace("'", "\\'")
        lines = [f"wrk.headers['{name}'] = '{value}'" for name, value in headers(server).items()]
        script.write_text("\n".join(["wrk.method = 'POST'", f"wrk.body = '{body}'", *lines]))
        command += ["-s", script]
    before = server.cpu()
    said = output(*command, f"http://{server.address()}{target}")
    after = server.cpu()
    if "Non-2xx" in said or "Socket errors" in said:
        die(f"{server.name} did not answer everything:\n{said}")
    count = int(re.search(r"(\d+) requests in", said)[1])
    rate = float(re.search(r"Requests/sec: +([\d.]+)", said)[1])
    return rate, *((end - begin) / count * 1e6 for begin, end in zip(before, after, strict=True))


def medians(samples):
    """Of each value in the tuples that each column has."""
    return {
        name: tuple(map(statistics.median, zip(*found, strict=True))) for name, found in samples.items()
    }


def spread(samples):
    """From the least to the most of each column's rounds, in percent of the median."""
    return {
        name: (max(found) - min(found)) / statistics.median(found) * 100
        for name, found in samples.items()
    }
