"""Times to stop under systemd, a part of tests/bench/run. It runs itself as a user of a fresh systemd."""

import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import targets
from servers import DEADLINE, die, ms_since
from table import Section, at_most

HERE = Path(__file__).resolve().parent
UNIT = "hermes-gateway.service"


def under_systemd(gateway, rounds):
    """What `inside` measured, or why it could not."""
    if os.geteuid() != 0:
        return "needs root"
    with tempfile.TemporaryDirectory(prefix="hg-bench-", dir="/tmp") as place:
        os.chmod(place, 0o755)
        binary = shutil.copy(gateway, Path(place) / "hermes-gateway")
        script = Path(shutil.copytree(HERE, Path(place) / "bench")) / "managed.py"
        found = subprocess.run(
            [HERE.parent / "with-systemd", "--journal", "--", sys.executable, "-B", script]
            + [binary, str(rounds)],
            cwd=place,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    if found.returncode == 125:
        return found.stderr.strip().splitlines()[-1]
    if found.returncode:
        die(f"under systemd:\n{found.stdout}{found.stderr}")
    return json.loads(found.stdout.splitlines()[-1])


def inside(binary, rounds):
    """In the sandbox: ms of one question, of a stop and of a kill, each from SIGTERM to exit."""

    def systemctl(*words):
        command = ["systemctl", "--user", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            die(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def start():
        # The start limit is not what is measured here.
        systemctl("reset-failed")
        systemctl("start", UNIT)

    def show(*properties):
        shown = systemctl("show", "-p", ",".join(properties), UNIT)
        return dict(line.split("=", 1) for line in shown.splitlines())

    def question():
        began = time.monotonic()
        show("ActiveState", "Job", "MainPID", "InvocationID", "Result")
        return ms_since(began)

    def stop():
        # By the manager's own clock: from its SIGTERM to the exit that it saw.
        systemctl("stop", UNIT)
        times = show("ActiveExitTimestampMonotonic", "ExecMainExitTimestampMonotonic")
        left, ended = (int(times[key]) for key in sorted(times))
        if not left or not ended:
            die("the manager has forgotten the unit: is it not enabled?")
        if systemctl("show", "-p", "ActiveState", "--value", UNIT).strip() != "inactive":
            die("a stopped unit is not inactive")
        return (ended - left) / 1000

    def kill():
        pid = int(show("MainPID")["MainPID"])
        end = os.pidfd_open(pid)
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        if not select.select([end], [], [], DEADLINE)[0]:
            die("the gateway did not exit")
        took = ms_since(began)
        os.close(end)
        return took

    subprocess.run([binary, "install", "--now"], check=True, stdout=sys.stderr)
    samples = []
    for _ in range(rounds):
        sample = [question(), kill()]
        start()
        sample.append(stop())
        start()
        samples.append(sample)
    question_ms, kill_ms, stop_ms = map(statistics.median, zip(*samples, strict=True))
    print(json.dumps({"question": question_ms, "kill": kill_ms, "stop": stop_ms}))


def measure(bench, table):
    section = Section("under systemd, ms", bench.binaries)
    found = {}
    for name, binary in bench.binaries.items():
        managed = under_systemd(binary, 5 if bench.quick else 20)
        if isinstance(managed, str):
            section.note(f"not measured: {managed}")
            return table.add(section)
        for what, took in managed.items():
            found.setdefault(what, {})[name] = took
    section.row("one systemctl show", found["question"], 2)
    # A stop is settled by the first answer; after a kill the manager is asked once more.
    for cause, questions, words in (("stop", 1, "show"), ("kill", 2, "2 × show")):
        limit = questions * found["question"]["gateway"] + targets.MAX_STOP_EXTRA_MS
        words = f"{words} + {targets.MAX_STOP_EXTRA_MS:g}"
        target = at_most(found[cause]["gateway"], limit, words)
        section.row(f"SIGTERM to exit, {cause}", found[cause], 2, [target])
    table.add(section)


if __name__ == "__main__":
    inside(sys.argv[1], int(sys.argv[2]))
