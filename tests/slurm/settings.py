"""The configuration files of the tests' Slurm cluster."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNT = "tests"  # registered where accounting is on
GPU_MODEL = "fake"  # a feature of the nodes, too

# The programs run with the cluster's own environment; a job's environment is that of its submission.
PROLOG = """\
#!/bin/sh
echo "start $(date +%s.%N) $SLURM_JOB_ID" >> {events}
"""
EPILOG = """\
#!/bin/sh
echo "end $(date +%s.%N) $SLURM_JOB_ID" >> {events}
"""
TASK_PROLOG = """\
#!/bin/sh
echo "task $(date +%s.%N) $SLURM_JOB_ID ${{CUDA_VISIBLE_DEVICES:-}}" >> {events}
"""

SLURM = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
SlurmUser=root
SlurmdUser=root
{listening}
AuthType=auth/munge
# cred_expire: how long a requeued job waits.
AuthInfo=socket={folder}/munge.socket,cred_expire=10

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
Prolog={folder}/prolog
Epilog={folder}/epilog
TaskProlog={folder}/task-prolog

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
# Memory limits without cgroups.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill

SchedulerParameters=bf_interval=5,sched_interval=5,batch_sched_delay=0
JobRequeue=1
DefMemPerCPU=1000
KillWait=5
OverTimeLimit=0
# A day: no test looks for a job that is forgotten, however slow the machine.
MinJobAge=86400
UnkillableStepTimeout=300
{accounting}
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""
NODE = (
    "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
    " CPUs={cpus} RealMemory={memory_MiB} Gres=gpu:{model}:{gpus} Feature={model} State=UNKNOWN"
)
# Daemons listen on the address of the host's name alone; where that is not loopback, on all, for munge's key keeps
# others out.
LOOPBACK = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"
ACCOUNTING_OFF = "AccountingStorageType=accounting_storage/none"
ACCOUNTING_ON = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[slurmdbd]}
AccountingStoragePass={folder}/munge.socket
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
"""
SLURMDBD = """\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[slurmdbd]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
{listening}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
MARIADB = """\
[server]
datadir={folder}/database
socket={folder}/mariadb.socket
pid-file={folder}/mariadb.pid
log-error={folder}/mariadb.log
skip-networking
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
"""


@dataclass
class Settings:
    """What a cluster consists of: nodes (all on this machine) of fake GPUs and of CPUs beyond the machine's."""

    accounting: bool = False
    nodes: int = 1
    gpus: int = 2  # a node
    cpus: int = 16  # a node
    memory_MiB: int = 256_000  # a node
    extra: str = ""  # more lines of slurm.conf
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [f"node{i}" for i in range(self.nodes)]


def loopback(host: str) -> bool:
    """Whether the host's name is an address of loopback."""
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False


def write(folder: Path, host: str, ports: dict[str, int], settings: Settings) -> None:
    """Write every configuration file, with the programs that Slurm calls, to `folder`."""
    nodes = "\n".join(
        NODE.format(
            node=name,
            host=host,
            port=ports[name],
            cpus=settings.cpus,
            memory_MiB=settings.memory_MiB,
            model=GPU_MODEL,
            gpus=settings.gpus,
        )
        for name in settings.names
    )
    accounting = (ACCOUNTING_ON if settings.accounting else ACCOUNTING_OFF).format(ports=ports, folder=folder)
    listening = LOOPBACK if loopback(host) else ""
    slurm = SLURM.format(host=host, listening=listening, ports=ports, folder=folder, nodes=nodes, accounting=accounting)
    (folder / "slurm.conf").write_text(slurm + settings.extra)
    (folder / "gres.conf").write_text(_gpus(folder, settings))
    for name, text in (("prolog", PROLOG), ("epilog", EPILOG), ("task-prolog", TASK_PROLOG)):
        (folder / name).write_text(text.format(events=folder / "events"))
        (folder / name).chmod(0o755)
    if settings.accounting:
        (folder / "slurmdbd.conf").touch(mode=0o600)
        (folder / "slurmdbd.conf").write_text(SLURMDBD.format(listening=listening, ports=ports, folder=folder))
        (folder / "mariadb.conf").write_text(MARIADB.format(folder=folder))


def _gpus(folder: Path, settings: Settings) -> str:
    """gres.conf. Slurm demands character devices and numbers GPUs by their place in the list."""
    lines = []
    for name in settings.names:
        files = [folder / f"{name}-nvidia{i}" for i in range(settings.gpus)]
        for file in files:
            file.symlink_to("/dev/null")
        lines.append(f"NodeName={name} Name=gpu Type={GPU_MODEL} File={folder}/{name}-nvidia[0-{settings.gpus - 1}]")
    return "\n".join(lines) + "\n"
