"""Servers that others wrote, beside which tests/bench/run measures, where they are installed."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path

from servers import Process, die, free_port, output, until

HEALTH = '{\\"status\\":\\"ok\\"}'


class Missing(Exception):
    """Why a peer is not measured."""


def found(program):
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not path:
        raise Missing(f"{program} is not installed")
    return path


class Peer(Process):
    """One that listens on a port that was free a moment ago."""

    def __init__(self, name, argv, home, port):
        super().__init__(name, argv, home)
        self.port = port

    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.spawn()
        until(self.listens, f"{self.name} listening; {self.home}/log")

    def listens(self):
        if os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = None
            die(f"{self.name} ended:\n{self.log()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def nginx(bench, what, upstream, under=()):
    """/health answers at once; all else goes to the upstream, over connections that are kept."""
    home, port = bench.place / what, free_port()
    alone = "master_process off;" if under else f"worker_processes {os.cpu_count()};"
    conf = f"""
        {alone} daemon off; pid {home}/pid; error_log {home}/errors;
        worker_rlimit_nofile 24000;
        events {{ worker_connections 11000; }}
        http {{
            access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
            client_body_temp_path {home}; proxy_temp_path {home}; fastcgi_temp_path {home};
            uwsgi_temp_path {home}; scgi_temp_path {home};
            client_max_body_size 2m; client_body_buffer_size 16k;
            upstream behind {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location = /health {{ default_type application/json; return 200 "{HEALTH}"; }}
                location / {{
                    proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection "";
                }}
            }}
        }}
        """
    argv = [*under, found("nginx"), "-p", home, "-c", home / "conf", "-e", home / "errors"]
    server = Peer("nginx", argv, home, port)
    # Its workers need the directories; as another user than root they keep its own.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (home / "conf").write_text(user + conf)
    return bench.add(server)


def haproxy(bench, what, upstream, under=()):
    """As nginx; a thread for each processor is its default."""
    home, port = bench.place / what, free_port()
    threads = "nbthread 1" if under else ""
    conf = f"""
global
    maxconn 4000
    {threads}
defaults
    mode http
    timeout connect 10s
    timeout client 600s
    timeout server 600s
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    http-request return status 200 content-type application/json string "{HEALTH}" if {{ path /health }}
    default_backend behind
backend behind
    server upstream {upstream}
"""
    server = Peer("HAProxy", [*under, found("haproxy"), "-db", "-f", home / "conf"], home, port)
    (home / "conf").write_text(conf)
    return bench.add(server)


class Nats(Peer):
    """NATS with JetStream, which syncs before it acknowledges."""

    def __init__(self, bench):
        home, port = bench.place / "nats", free_port()
        program = found("nats-server")
        super().__init__("NATS", [program, "-c", home / "conf"], home, port)
        (home / "conf").write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{ store_dir: "{bench.disk}/nats", sync_interval: always }}\n'
        )
        check = subprocess.run([program, "-t", "-c", home / "conf"], capture_output=True, timeout=60)
        if check.returncode:
            raise Missing("nats-server is older than 2.10: it has no sync_interval: always")
        self.program = bench.tools["publish"]

    def rate(self, clients, count, size):
        """Acknowledged messages per second."""
        return count / float(output(self.program, self.address(), clients, count, size))


class Postgres(Peer):
    """A cluster of its own, by its defaults: fsync and synchronous_commit are on."""

    def __init__(self, bench):
        self.programs = self.bindir()
        data, port = bench.disk / "postgres", free_port()
        home = bench.place / "postgres"
        prefix, owner = [], None
        if os.geteuid() == 0:  # as whom it refuses to run
            owner = next(user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody"))
            ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            prefix = [found("setpriv"), *ids]
        where = ["-D", data, "-h", "127.0.0.1", "-p", port, "-k", home]
        super().__init__("Postgres", [*prefix, self.programs / "postgres", *where], home, port)
        data.mkdir(mode=0o700)
        if owner:
            for path in (bench.place, bench.disk):
                path.chmod(0o711)
            for path in (home, data):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        initdb = [*prefix, self.programs / "initdb", "-D", data, "-U", "bench", "-A", "trust"]
        initdb += ["-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(initdb, capture_output=True, text=True, timeout=120, cwd="/")
        if done.returncode:
            raise Missing(f"initdb: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        self.at = ["-h", "127.0.0.1", "-p", str(port), "-U", "bench"]
        self.script = home / "insert.sql"

    @staticmethod
    def bindir():
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
        initdb = installed[-1] if installed else Path(found("initdb"))
        if not (initdb.parent / "pgbench").exists():
            raise Missing("pgbench is not installed")
        return initdb.parent

    def prepare(self, schema, insert):
        """The table, and the one statement of each transaction."""
        ready = [self.programs / "pg_isready", *self.at]
        until(lambda: subprocess.run(ready, capture_output=True, timeout=60).returncode == 0, "Postgres")
        output(self.programs / "psql", *self.at, "-c", schema, "postgres")
        self.script.write_text(insert)

    def rate(self, clients, count, _):
        """Inserts per second, each a transaction of its own."""
        bench = [self.programs / "pgbench", *self.at, "-n", "-M", "prepared", "-c", clients]
        bench += ["-j", min(clients, os.cpu_count()), "-t", count // clients, "-f", self.script]
        said = output(*bench, "postgres")
        return float(re.search(r"^tps = ([\d.]+) \(without", said, re.M)[1])

    def kill(self):
        try:
            if self.pid:
                self.terminate(signal.SIGQUIT)  # ends all of its processes
        finally:
            super().kill()


def proxies(bench, upstream):
    """What makes those that answer and pass on HTTP, and why others are not measured."""
    ways = {"nginx": (nginx, "nginx"), "HAProxy": (haproxy, "haproxy")}
    makers, notes = {}, []
    for name, (make, program) in ways.items():
        try:
            found(program)
            makers[name] = partial(make, bench, upstream=upstream)
        except Missing as why:
            notes.append(f"{name}: not measured: {why}")
    return makers, notes


def installed(*makers):
    """The peers that can be had, by name, and why others cannot."""
    peers, notes = {}, []
    for name, make in makers:
        try:
            peers[name] = make()
        except Missing as why:
            notes.append(f"{name}: not measured: {why}")
    return peers, notes
