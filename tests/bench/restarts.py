"""What clients lose while a server is replaced by another of its kind, a part of tests/bench/run."""

import os
import re
import signal
import subprocess
import time

import peers
import targets
from peers import Missing, Peer, found
from servers import DEADLINE, die, free_port, tree, until
from table import Section, at_most

ROWS = (
    ("requests", "requests", None),
    ("refused, reset or 503", "refused", targets.MAX_LOST),
    ("cut in an answer", "cut", targets.MAX_LOST),
    ("no answer in 20 s", "late", targets.MAX_LOST),
    ("answered wrongly", "wrong", targets.MAX_LOST),
    ("messages, events lost or doubled", "lost", targets.MAX_LOST),
    ("sent again on a new connection", "retried", None),
    ("longest wait in a restart, ms", "longest_ms", None),
    ("longest wait outside of one, ms", "calm_ms", None),
)


def children(pid):
    return set(tree(pid)) - {pid}


def ended(pid):
    """True too for one that its parent has not waited for."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


class Nginx(Peer):
    """As a daemon: it takes SIGUSR2 only where its parent is not the one that has started it."""

    def __init__(self, bench, what, upstream):
        server = peers.nginx(bench, what, upstream)
        super().__init__(what, server.argv, server.home, server.port)
        conf = self.home / "conf"
        conf.write_text(conf.read_text().replace("daemon off;", "daemon on;"))

    def main(self):
        return int((self.home / "pid").read_text())

    def start(self):
        subprocess.run(self.argv, check=True, timeout=DEADLINE)
        until(lambda: (self.home / "pid").exists(), "nginx's pid file")
        until(lambda: children(self.main()), "nginx's workers")

    def kill(self):
        if (self.home / "pid").exists():
            for pid in tree(self.main()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def reload(self):
        before = children(self.main())
        os.kill(self.main(), signal.SIGHUP)
        until(lambda: all(map(ended, before)), "nginx's old workers ended")

    def upgrade(self):
        """Of the whole program: the documented way."""
        old = self.main()
        os.kill(old, signal.SIGUSR2)

        def is_new():
            try:
                return self.main() != old and children(self.main())
            except (FileNotFoundError, ValueError):
                return False

        until(is_new, "nginx's new workers")
        os.kill(old, signal.SIGQUIT)
        until(lambda: ended(old), "nginx's old master ended")


class HAProxy(Peer):
    """With a master, which passes the listeners on."""

    def __init__(self, bench, what, upstream):
        server = peers.haproxy(bench, what, upstream)
        conf = server.home / "conf"
        socket = f"    stats socket {server.home}/admin mode 600 level admin expose-fd listeners\n"
        conf.write_text(conf.read_text().replace("global\n", f"global\n{socket}"))
        argv = [found("haproxy"), "-W", "-db", "-f", conf]
        super().__init__(what, argv, server.home, server.port)

    def reload(self):
        before = children(self.pid)
        os.kill(self.pid, signal.SIGUSR2)
        until(lambda: children(self.pid) - before, "HAProxy's new worker")
        until(lambda: all(map(ended, before)), "HAProxy's old worker ended")


class Caddy(Peer):
    def __init__(self, bench, what, upstream):
        home, port, admin = bench.place / what, free_port(), free_port()
        conf = home / "Caddyfile"
        super().__init__(what, [found("caddy"), "run", "--config", conf], home, port)
        self.admin = f"127.0.0.1:{admin}"
        self.env |= {"HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        conf.write_text(
            f"""
{{
    admin {self.admin}
    auto_https off
}}
http://127.0.0.1:{port} {{
    respond /health `{{"status":"ok"}}` 200
    reverse_proxy {upstream}
}}
"""
        )

    def reload(self):
        command = [self.argv[0], "reload", "--force", "--config", self.home / "Caddyfile"]
        command += ["--address", self.admin]
        subprocess.run(command, env=self.env, check=True, capture_output=True, timeout=DEADLINE)


def graceful(server):
    """`restart --graceful` of a gateway; whether it has that at all is the caller's question."""
    command = [server.argv[0], "restart", "--graceful"]
    return subprocess.run(command, env=server.env, capture_output=True, text=True, timeout=DEADLINE)


def restart(server):
    done = graceful(server)
    if done.returncode:
        die(f"restart --graceful: {done.returncode}\n{done.stdout}{done.stderr}\n{server.log()}")


def details(bench, name):
    return bench.tools["restarts"].with_name(f"restarts-{name.replace(' ', '-')}.txt")


def lost(bench, server, replace, words=()):
    """What the clients count while it is replaced again and again; each client's line stays in a file."""
    with open(details(bench, server.name), "w+") as said:
        clients = subprocess.Popen(
            [bench.tools["restarts"], server.address(), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )

        def heard(word):
            line = clients.stdout.readline()
            if not line.startswith(word):
                clients.kill()
                said.seek(0)
                die(f"the clients of {server.name} said {line!r}\n{said.read()}")
            return line

        heard("ready")
        for _ in range(3 if bench.quick else 20):
            print("begin", file=clients.stdin, flush=True)
            replace()
            print("end", file=clients.stdin, flush=True)
            heard("served")
            # The case: restarts that do not follow each other at once.
            time.sleep(0.3)
        clients.stdin.close()
        last = heard("requests=")
        clients.wait(DEADLINE)
        return {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", last)}


def measure(bench, table):
    upstream = bench.bare("restarts-upstream", [bench.tools["proxy"]])
    upstream.start()
    ways = {
        "nginx USR2": (Nginx, "upgrade"),
        "nginx reload": (Nginx, "reload"),
        "HAProxy reload": (HAProxy, "reload"),
        "Caddy reload": (Caddy, "reload"),
    }
    results, notes = {}, []
    for name, binary in bench.binaries.items():
        for column, words in ((name, ()), (f"{name}, messages", ("messages",))):
            queue = ("limits.max_queue_per_session=1000", "limits.keep_results=100000")
            server = bench.gateway(name, f"restarts-{len(results)}", queue)
            server.name = column
            server.start()
            if graceful(server).returncode == 64:
                notes.append(f"{name}: not measured: this build has no `restart --graceful`")
                break
            more = (server.key(), *words)
            results[column] = lost(bench, server, lambda at=server: restart(at), more)
            server.kill()
    for name, (kind, way) in ways.items():
        try:
            server = kind(bench, name.replace(" ", "-"), upstream.address())
        except Missing as why:
            notes.append(f"{name}: not measured: {why}")
            continue
        bench.add(server)
        server.start()
        results[name] = lost(bench, server, getattr(server, way))
        server.kill()
    restarts = 3 if bench.quick else 20
    section = Section(f"{restarts} restarts under load", results)
    for label, key, limit in ROWS:
        values = {name: result[key] for name, result in results.items()}
        ours = [value for name, value in values.items() if name.startswith("gateway")]
        targets_met = [at_most(max(ours), limit)] if ours and limit is not None else []
        section.row(label, values, 1 if key.endswith("_ms") else 0, targets_met)
    for note in notes:
        section.note(note)
    section.note("A reload keeps the program of nginx and of Caddy; all else executes it anew.")
    section.note(f"A line for each client: {details(bench, '*')}")
    table.add(section)
