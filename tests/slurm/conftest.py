"""A SLURM of one node on this machine: Debian's munge and slurm-wlm, started for the session, as root."""

import os
import shutil
import socket
import subprocess
import time

import pytest

CONF = """ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MinJobAge=60
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _missing():
    if os.geteuid() != 0:
        return "a SLURM of one's own is started as root"
    lacking = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    return f"{', '.join(lacking)} is not installed (scripts/test.sh --with slurm installs it)" if lacking else ""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """SLURM_CONF is set and a node idle; skipped where SLURM is not installed, failed where it was asked for."""
    if why := _missing():
        (pytest.fail if "slurm" in os.environ.get("CILMP_TEST_WITH", "").split() else pytest.skip)(why)
    folder = tmp_path_factory.mktemp("slurm")
    os.chmod(folder, 0o755)  # munge refuses a socket below a folder that others may not enter
    for parent in folder.parents[:3]:
        os.chmod(parent, parent.stat().st_mode | 0o111) if parent != parent.parent else None
    facts = {"folder": folder, "host": socket.gethostname().split(".")[0], "port": free_port(),
             "node_port": free_port(), "cpus": os.cpu_count()}  # fmt: skip
    (folder / "slurm.conf").write_text(CONF.format(**facts))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    os.chmod(folder / "munge.key", 0o600)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    places = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log",
              "seed-file": "munged.seed"}  # fmt: skip
    munge = ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in places.items())]
    daemons, before = [], os.environ.get("SLURM_CONF")
    try:
        daemons.append(subprocess.Popen(munge, env=env))
        _until(lambda: (folder / "munge.socket").exists(), folder)
        daemons.append(subprocess.Popen(["slurmctld", "-D"], env=env))
        daemons.append(subprocess.Popen(["slurmd", "-D", "-N", facts["host"]], env=env))
        os.environ["SLURM_CONF"] = env["SLURM_CONF"]
        asked = ["sinfo", "-h", "-o", "%t"]
        _until(lambda: "idle" in subprocess.run(asked, capture_output=True, text=True).stdout, folder)
        yield folder
        subprocess.run(["scancel", "-u", "root"])
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=30)
        os.environ.pop("SLURM_CONF", None) if before is None else os.environ.update(SLURM_CONF=before)


def _until(there, folder, seconds=60):
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            logs = "".join(p.read_text(errors="replace")[-2000:] for p in folder.glob("*.log"))
            pytest.fail(f"SLURM did not come up within {seconds} s: {logs}")
        time.sleep(0.2)
