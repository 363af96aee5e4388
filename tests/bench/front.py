"""The front door's part of tests/bench/run: requests, chats, streams, idle connections, an upstream."""

import http.client
import json
import re
import socket
import statistics
import subprocess
import time
from pathlib import Path

MIN_ECHO = 0.5  # of the bare server's /health
MIN_CAT = 0.85  # of a server that spawns cat
MIN_PROXY = 0.6  # of a bare proxy
MAX_FIRST_MS = 1.0
MAX_IDLE_KB = 24
BODY = {"model": "default", "messages": [{"role": "user", "content": "hello there"}]}


def wrk(script, connections, seconds, url):
    """Requests per second, each of which must be answered with 2xx."""
    command = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s"]
    command += ["-s", str(script)] if script else []
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{url} did not answer everything:\n{said}")
    return float(re.search(r"Requests/sec: +([\d.]+)", said)[1])


def chat_script(place, name, key):
    script = Path(place) / f"{name}.lua"
    body = json.dumps(BODY).replace("'", "\\'")
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{body}'\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
        f"wrk.headers['Authorization'] = 'Bearer {key}'\n"
    )
    return script


def first_byte(gateway, turns):
    """Milliseconds from an agent's first byte to the client's, for so many streamed turns."""
    host, port = gateway.address().split(":")
    found = []
    connection = http.client.HTTPConnection(host, int(port))
    headers = {"Authorization": f"Bearer {gateway.key()}", "Content-Type": "application/json"}
    for _ in range(turns):
        connection.request("POST", "/v1/chat/completions", json.dumps(BODY | {"stream": True}), headers)
        response = connection.getresponse()
        text = b""
        while b'"content":"1' not in text and b'"content":"2' not in text and not re.search(rb'"content":"\d', text):
            piece = response.read1(65536)
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            if not piece:
                raise SystemExit(f"no stamp: {text}")
            text += piece
        found.append((now - int(re.search(rb'"content":"(\d+)"', text)[1])) / 1e6)
        response.read()
    found.sort()
    return statistics.median(found), found[len(found) * 99 // 100]


def idle_memory(gateway, count):
    """RSS in kB that each of so many connections takes between two requests."""

    def rss():
        status = Path(f"/proc/{gateway.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+)", status, re.M)[1])

    host, port = gateway.address().split(":")
    request = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {gateway.key()}\r\n\r\n"
    before, held = rss(), []
    for _ in range(count):
        stream = socket.create_connection((host, int(port)))
        stream.sendall(request.encode())
        if not stream.recv(4096).startswith(b"HTTP/1.1 200 "):
            raise SystemExit("a connection was not served")
        held.append(stream)
    took = (rss() - before) / count
    for stream in held:
        stream.close()
    return took


def measure(table, binary, tools, place, quick, kinds):
    Gateway, Bare = kinds
    rounds, seconds = (1, 1) if quick else (3, 4)

    def gateway(name, *settings):
        home = place / name
        home.mkdir(mode=0o700)
        run = [binary, "run", "--set", "http.listen=127.0.0.1:0"]
        for setting in settings:
            run += ["--set", setting]
        made = Gateway("gateway", run, home)
        made.start()
        return made

    def bare(name, *argv):
        home = place / name
        home.mkdir(mode=0o700)
        made = Bare(name, list(argv), home)
        made.start()
        return made

    running = []
    try:
        many = "limits.max_turns=64"
        echo = gateway("echo", many)
        cat = gateway("cat", many, 'agent.command=["/bin/cat"]')
        stamp = gateway("stamp", f'agent.command=["{tools["stamp"]}"]')
        floor, spawn = bare("floor", tools["bare"]), bare("spawn", tools["spawn"])
        upstream = bare("upstream", tools["proxy"])
        proxy = bare("proxy", tools["proxy"], upstream.address())
        through = gateway("through", many, f"agent.url=http://{upstream.address()}/v1")
        running = [echo, cat, stamp, floor, spawn, upstream, proxy, through]
        chat = "/v1/chat/completions"
        runs = {
            "floor": (None, 16, f"http://{floor.address()}/health"),
            "echo": (chat_script(place, "echo", echo.key()), 16, f"http://{echo.address()}{chat}"),
            "spawn": (chat_script(place, "spawn", "x"), 4, f"http://{spawn.address()}{chat}"),
            "cat": (chat_script(place, "cat", cat.key()), 4, f"http://{cat.address()}{chat}"),
            "proxy": (chat_script(place, "proxy", "x"), 16, f"http://{proxy.address()}{chat}"),
            "through": (chat_script(place, "through", through.key()), 16, f"http://{through.address()}{chat}"),
        }
        rates = {name: [] for name in runs}
        for _ in range(rounds):
            for name, (script, connections, url) in runs.items():
                rates[name].append(wrk(script, connections, seconds, url))
        rates = {name: statistics.median(found) for name, found in rates.items()}

        def ratio(what, ours, theirs, least):
            limit = least * rates[theirs]
            target = f"≥ {least:g} × peer = {limit:.0f}"
            table.add(what, f"{rates[ours]:.0f}", f"{rates[theirs]:.0f}", target, rates[ours] >= limit)

        ratio("chats through echo per second (bare /health)", "echo", "floor", MIN_ECHO)
        ratio("chats through cat per second (bare posix_spawn)", "cat", "spawn", MIN_CAT)
        ratio("chats through an upstream per second (bare proxy)", "through", "proxy", MIN_PROXY)
        median, p99 = first_byte(stamp, 50 if quick else 300)
        what = "first byte after the agent's, ms (p99)"
        table.add(what, f"{median:.2f} ({p99:.2f})", "", f"≤ {MAX_FIRST_MS:g}", median <= MAX_FIRST_MS)
        idle = idle_memory(echo, 1000)
        table.add("an idle connection, kB", f"{idle:.1f}", "", f"≤ {MAX_IDLE_KB}", idle <= MAX_IDLE_KB)
    finally:
        for one in running:
            one.kill()
