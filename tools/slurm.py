"""A sweep on a real Slurm on this machine: is it what `asv run` stored, and does it survive what clusters do to jobs?

``python -m tools.slurm [--tag v4.3.0] [--models zoo-gpt2,zoo-llama,zoo-opt]`` needs root and Debian's packages
``slurmctld slurmd slurm-client munge``. It starts a controller and two nodes of this host in a folder of its own, with two
partitions, one of them exclusive, and stops them at the end. Then it starts ``tlbench sweep --profile`` there and, while
jobs run:

1. requeues one (``scontrol requeue``);
2. drains the second node (``scontrol update state=drain``), which must get no further job, and resumes it;
3. kills the slurmd of a node that runs a job, which Slurm notices in some minutes, and starts it again.

It prints a line for each, and exit status 1 says what is wrong: the sweep failed, or its figures are not those stored in
``releases/results/shared-x86-64``, bit for bit. It is no part of the tests.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tools.kills import BIN, ROOT, Place
from tools.sweeps import figures, make

MACHINE = "shared-x86-64-slurm"
NODES, PORT = ("node1", "node2"), 17001
SYSTEM = Path("/etc/slurm/slurm.conf")
"""Where Slurm looks. The variable SLURM_CONF does not reach srun within a job, since Snakemake's plugin clears all such."""
NODE = "CPUs=2 CoresPerSocket=2 RealMemory=12000"
NOTICED_AFTER_S = 15
"""After this Slurm asks a silent node once more; on a busy machine it took one to seven minutes to call it down."""
WAIT_S = 600.0
CONFIGURATION = """ClusterName=tlbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
SlurmdTimeout={timeout}
MinJobAge=300
SchedulerParameters=batch_sched_delay=1,sched_interval=2
{nodes}
PartitionName=cpu Nodes=ALL Default=YES State=UP MaxTime=INFINITE
PartitionName=exclusive Nodes=ALL State=UP OverSubscribe=EXCLUSIVE
"""
PROFILE = """executor: slurm
latency-wait: 10
slurm-status-command: squeue
slurm-no-account: true
slurm-requeue: true
slurm-init-seconds-before-status-checks: 3
default-resources:
  slurm_partition: "cpu"
set-resources:
  prepare:
    mem_mb: 4000
  measure:
    mem_mb: 4000
  asv:
    slurm_partition: "exclusive"
    mem_mb: 4000
"""


@dataclass
class Cluster:
    """Slurm with two nodes on this host."""

    folder: Path
    running: dict = field(default_factory=dict)

    @property
    def environment(self):
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self):
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={PORT + i} {NODE}" for i, name in enumerate(NODES)
        )
        text = CONFIGURATION.format(host=host, folder=self.folder, nodes=nodes, timeout=NOTICED_AFTER_S)
        (self.folder / "slurm.conf").write_text(text)
        if SYSTEM.exists():
            sys.exit(f"{SYSTEM} exists: this machine has a Slurm of its own, so nothing was started")
        SYSTEM.parent.mkdir(exist_ok=True)
        SYSTEM.unlink(missing_ok=True)
        SYSTEM.symlink_to(self.folder / "slurm.conf")
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        if not Path("/run/munge/munge.socket.2").exists():
            Path("/run/munge").mkdir(exist_ok=True)
            subprocess.run(["chown", "munge:munge", "/run/munge"], check=True)
            self._run("munged", "runuser", "-u", "munge", "--", "munged", "--foreground")
            time.sleep(1)
        self._run("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: self.tell("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split() == ["idle"] * len(NODES))

    def start_node(self, node):
        self._run(node, "slurmd", "-D", "-N", node)

    def stop(self):
        if SYSTEM.is_symlink() and SYSTEM.readlink() == self.folder / "slurm.conf":
            SYSTEM.unlink()
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()

    def _run(self, name, *words):
        with (self.folder / f"{name}.out").open("a") as log:
            self.running[name] = subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)

    def tell(self, *words):
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else f"{done.stderr.strip()}"

    def jobs(self):
        """The running jobs: number, node and name of the rule."""
        return [line.split() for line in self.tell("squeue", "-h", "-t", "R", "-o", "%i %N %k").splitlines()]

    def wait_for(self, condition, seconds=WAIT_S):
        end = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > end:
                sys.exit(f"waited {seconds:.0f} s in vain: {self.tell('sinfo')} {self.tell('squeue')}")
            time.sleep(0.5)
        return found


@contextmanager
def cluster(folder):
    """A running cluster, which ends with the block."""
    one = Cluster(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", default="v4.3.0")
    parser.add_argument("--models", default="zoo-gpt2,zoo-llama,zoo-opt")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        (place := Place(Path(folder) / "place")).folder.mkdir()
        (Path(folder) / "asv").mkdir()
        make(place, Path(folder) / "asv")
        (Path(folder) / "cluster").mkdir()
        (Path(folder) / "profile").mkdir()
        (Path(folder) / "profile" / "config.yaml").write_text(PROFILE)
        with cluster(Path(folder) / "cluster") as slurm:
            faults = check(slurm, place, wanted)
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults")
    sys.exit(bool(faults))


def check(slurm, place, wanted):
    """What went wrong, in sentences."""
    words = ["sweep", wanted.tag, "--models", wanted.models, "--machine", MACHINE, "--dtype", "float32", "--jobs", "4"]
    command = [str(BIN / "tlbench"), *words, "--profile", str(place.folder.parent / "profile")]
    environment = place.environment | {"SLURM_CONF": slurm.environment["SLURM_CONF"]}
    started = time.monotonic()
    run = subprocess.Popen(
        command, cwd=place.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def say(what):
        print(f"{time.monotonic() - started:5.0f} s: {what}", flush=True)

    job, node, _ = slurm.wait_for(slurm.jobs)[0]
    say(f"requeueing job {job} on {node}: {slurm.tell('scontrol', 'requeue', job) or 'done'}")
    slurm.tell("scontrol", "update", f"nodename={NODES[1]}", "state=drain", "reason=test")
    say(f"draining {NODES[1]}: {slurm.tell('sinfo', '-h', '-N', '-p', 'cpu', '-o', '%N=%T')!r}")
    before = {number for number, where, _ in slurm.jobs() if where == NODES[1]}
    time.sleep(NOTICED_AFTER_S)
    after = {number for number, where, _ in slurm.jobs() if where == NODES[1]}
    faults = [f"job {number} started on a drained node" for number in after - before]
    slurm.tell("scontrol", "update", f"nodename={NODES[1]}", "state=resume")
    job, node, _ = slurm.wait_for(slurm.jobs)[0]
    slurm.running[node].send_signal(signal.SIGKILL)
    say(f"killed the slurmd of {node}, which runs job {job}")
    slurm.wait_for(lambda: "down" in slurm.tell("sinfo", "-h", "-n", node, "-o", "%T"))
    say(f"Slurm has noticed: {slurm.tell('sinfo', '-h', '-N', '-p', 'cpu', '-o', '%N=%T')!r}")
    slurm.start_node(node)
    printed = run.communicate()[0]
    say(f"the sweep ended with status {run.returncode}")
    print(printed[-1500:])
    if run.returncode:
        faults.append(f"the sweep failed: {printed.splitlines()[-1]}")
    found, expected = (figures(folder) for folder in (place.folder / "results" / MACHINE, STORED))
    faults += [f"{key}: {found[key]}, not {expected.get(key)}" for key in found if found[key] != expected.get(key)]
    say(f"{len(found)} figures, {len(found.keys() & expected.keys())} of them stored before")
    return faults + ([] if found else ["no figure was stored"])


STORED = ROOT / "releases" / "results" / "shared-x86-64"


if __name__ == "__main__":
    main()
