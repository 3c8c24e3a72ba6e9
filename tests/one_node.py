"""A SLURM of one node, this machine with two processors, for a test that needs one; as root, and nothing of it stays.

`munged`, `slurmctld` and `slurmd` have to be installed: `.ci/install-slurm`.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd")
WITHOUT = next((program for program in PROGRAMS if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin") is None), "")
SETTINGS = {
    "ClusterName": "tests",
    "AuthType": "auth/munge",
    "CryptoType": "crypto/munge",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    # No accounting and no control groups, which a container has no right to.
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SwitchType": "switch/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "AccountingStorageType": "accounting_storage/none",
    "MpiDefault": "none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core",
    "SchedulerParameters": "sched_interval=1,batch_sched_delay=0",
    "JobRequeue": "1",
    "ReturnToService": "2",
    "KillWait": "60",
    "MinJobAge": "3600",
    "JobCompType": "jobcomp/filetxt",
}


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it with everything that it writes in `folder`; the environment in which commands find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key, munge = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    node, ports = socket.gethostname().split(".")[0], _free_ports(2)
    settings = SETTINGS | {
        "SlurmctldHost": f"{node}(127.0.0.1)",
        "SlurmctldPort": str(ports[0]),
        "SlurmdPort": str(ports[1]),
        "AuthInfo": f"socket={munge}",
        "StateSaveLocation": str(folder / "state"),
        "SlurmdSpoolDir": str(folder / "spool"),
        "SlurmctldPidFile": str(folder / "slurmctld.pid"),
        "SlurmdPidFile": str(folder / "slurmd.pid"),
        "JobCompLoc": str(folder / "completed.txt"),
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines += [f"NodeName={node} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN"]
    lines += [f"PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP"]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    environment = os.environ | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
    }
    paths = [
        f"--key-file={key}",
        f"--socket={munge}",
        *(f"--{one}-file={folder / one}" for one in ("pid", "log", "seed")),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_daemon(["munged", "--foreground", "--force", *paths], folder, environment))
        _wait(munge.exists, "munged makes no socket")
        stack.enter_context(_daemon(["slurmctld", "-D", "-c"], folder, environment))
        stack.enter_context(_daemon(["slurmd", "-D"], folder, environment))
        _wait(lambda: "idle" in asked(environment, "sinfo", "-h", "-o", "%T"), f"no node is idle, see {folder}")
        yield environment


def asked(environment: dict[str, str], *command: str) -> str:
    """What a command of SLURM prints; nothing where it fails."""
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


@contextlib.contextmanager
def _daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait(condition, otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)
