"""What tests/bench/run measures: processes in directories of their own, and what they take."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

DEADLINE = 60  # seconds, for anything that should take milliseconds, but under callgrind too
TICK = os.sysconf("SC_CLK_TCK")


def ms_since(began):
    return (time.monotonic() - began) * 1000


def die(text):
    raise SystemExit(f"tests/bench/run: {text}")


def output(*argv, timeout=600, **options):
    """What a program prints, which must succeed."""
    argv = [str(word) for word in argv]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, **options)
    except subprocess.TimeoutExpired:
        die(f"{' '.join(argv)}: not done after {timeout} s")
    if done.returncode:
        die(f"{' '.join(argv)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def until(condition, what, seconds=DEADLINE):
    """Waits until it holds, and returns what it found."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            die(f"{what}: not in {seconds} s")
        time.sleep(0.005)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -------------------------------------------------------------------- of processes ----


def tree(pid):
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                pass  # the thread has just ended
    return found


def cpu(pid):
    """Seconds of user and of system time that a process took, with all that descend from it."""
    user = system = 0
    for each in tree(pid):
        try:
            stat = Path(f"/proc/{each}/stat").read_text()
        except OSError:
            continue  # its parent has its time now
        # After the name: utime, stime, and those of the children that it has waited for.
        fields = stat[stat.rindex(")") + 2 :].split()
        user += int(fields[11]) + int(fields[13])
        system += int(fields[12]) + int(fields[14])
    return user / TICK, system / TICK


def status_kib(pid, name, file="status"):
    """A number of kB that /proc says of a process."""
    status = Path(f"/proc/{pid}/{file}").read_text()
    return int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])


def rss_mib(pid):
    """Of a process and its descendants, by its pages: the numbers in status are approximate."""
    return sum(status_kib(each, "Rss", "smaps_rollup") for each in tree(pid)) / 1024


def name_of(comm):
    """The name of a thread, by its file in /proc; empty for one that has just ended."""
    try:
        return comm.read_text().strip()
    except OSError:
        return ""


# --------------------------------------------------------------------- the servers ----


class Process:
    """A server that can be started and stopped again and again."""

    def __init__(self, name, argv, home):
        self.name, self.argv, self.home = name, [str(word) for word in argv], Path(home)
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.env = {"PATH": os.environ["PATH"]}
        self.pid = None

    def spawn(self):
        log = os.open(self.home / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        files = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        # In a group of its own: what Ctrl-C ends in the terminal is ended here, and in order.
        self.pid = os.posix_spawnp(self.argv[0], self.argv, self.env, file_actions=files, setpgroup=0)
        os.close(log)

    def log(self):
        return (self.home / "log").read_text(errors="replace")

    def terminate(self, sign=signal.SIGTERM):
        """Asks it to end, and returns its exit code once it has."""
        os.kill(self.pid, sign)
        end = os.pidfd_open(self.pid)
        try:
            until(lambda: os.waitid(os.P_PIDFD, end, os.WEXITED | os.WNOHANG | os.WNOWAIT), self.name)
        finally:
            os.close(end)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = None
        return code

    def kill(self):
        if self.pid:
            for each in tree(self.pid):
                try:
                    os.kill(each, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            os.waitpid(self.pid, 0)
            self.pid = None

    def cpu(self):
        return cpu(self.pid)

    def rss_mib(self):
        return rss_mib(self.pid)


class Server(Process):
    """One that says READY=1 to a socket."""

    def __init__(self, name, argv, home, state=None):
        super().__init__(name, argv, home)
        for part in ("h", "c", "s", "r"):
            (self.home / part).mkdir(mode=0o700)
        # Where what is durable goes, if that is to be another disk.
        self.state = Path(state or self.home / "s")
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.socket = str(self.home / "notify")
        self.env |= {
            "HOME": str(self.home / "h"),
            "XDG_CONFIG_HOME": str(self.home / "c"),
            "XDG_STATE_HOME": str(self.state),
            "XDG_RUNTIME_DIR": str(self.home / "r"),
            "NOTIFY_SOCKET": self.socket,
        }
        self.said = ""

    def start(self):
        """Starts it, and returns the milliseconds from the spawn to READY=1."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(self.socket)
            notify.settimeout(DEADLINE)
            began, self.said = time.monotonic(), ""
            self.spawn()
            while "READY=1" not in self.said:
                try:
                    self.said += notify.recv(4096).decode() + "\n"
                except TimeoutError:
                    die(f"{self.name} did not become ready:\n{self.log()}")
            return ms_since(began)

    def stop(self):
        """Sends SIGTERM, and returns the milliseconds until it has exited."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        status = os.waitpid(self.pid, 0)[1]
        took = ms_since(began)
        self.pid = None
        code = os.waitstatus_to_exitcode(status)
        if code not in (143, -signal.SIGTERM):
            die(f"{self.name} ended with {code} after a SIGTERM that nobody planned:\n{self.log()}")
        return took

    def at_rest(self):
        """Waits until the thread of the start has ended."""
        tasks = Path(f"/proc/{self.pid}/task")
        until(lambda: "start" not in map(name_of, tasks.glob("*/comm")), f"{self.name} at rest")

    def address(self):
        """Of a peer."""
        return re.search(r"STATUS=(\S+)", self.said)[1]


class Gateway(Server):
    def configure(self, text):
        config = self.home / "c/hermes-gateway/default.toml"
        config.parent.mkdir(mode=0o700, exist_ok=True)
        config.write_text(text)

    def address(self):
        return self.status()["listen"]

    def forget(self):
        """The next start finds no state."""
        shutil.rmtree(self.state)
        self.state.mkdir(mode=0o700)

    def journal(self):
        return self.state / "hermes-gateway/default/journal"

    def key(self):
        return (self.journal().parent / "api.key").read_text().strip()

    def status(self):
        """What it says of itself over the control socket."""
        control = self.home / "r/hermes-gateway/default/control.sock"
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(DEADLINE)
            stream.connect(str(control))
            stream.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: stream.recv(65536), b""))
        return json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])


class Bench(contextlib.ExitStack):
    """What one part has: the programs, directories, and the servers that end with it."""

    def __init__(self, gateways, tools, place, disk, quick):
        super().__init__()
        self.binaries, self.tools = gateways, tools
        self.place, self.disk, self.quick = Path(place), Path(disk), quick

    def add(self, server):
        self.callback(server.kill)
        return server

    def gateway(self, version, what, settings=(), under=(), on_disk=False):
        run = [*under, self.binaries[version], "run", "--set", "http.listen=127.0.0.1:0"]
        for setting in settings:
            run += ["--set", setting]
        what = f"{what}-{version}"
        state = self.disk / what if on_disk else None
        return self.add(Gateway(version, run, self.place / what, state))

    def gateways(self, what, settings=(), on_disk=False):
        """One of each version, by the name of its column."""
        return {name: self.gateway(name, what, settings, on_disk=on_disk) for name in self.binaries}

    def bare(self, what, argv, under=()):
        return self.add(Server(what, [*under, *argv], self.place / what))
