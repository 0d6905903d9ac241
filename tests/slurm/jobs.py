"""Jobs as squeue lists them, and their use of GPUs as the nodes recorded it."""

from dataclasses import dataclass

FORMAT = "%A|%j|%T|%P|%N|%k|%r"  # squeue's, of Job's fields; tasks of an array that wait are one line
FINISHED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"),
    *("DEADLINE", "REVOKED"),
)


@dataclass
class Job:
    """A job; squeue lists finished ones for a day (MinJobAge)."""

    id: int
    name: str
    state: str
    partition: str
    node: str
    comment: str  # the plugin's: rule_NAME_wildcards_A_B
    reason: str

    @property
    def finished(self) -> bool:
        """Whether it ended, well or not."""
        return self.state in FINISHED


@dataclass
class Use:
    """One start of a job on a node: when, and which GPUs Slurm gave it."""

    job: int
    started_at: float
    ended_at: float | None = None
    gpus: tuple[int, ...] = ()

    def overlaps(self, other: "Use") -> bool:
        """Whether both ran at some moment."""
        ends = [use.ended_at or float("inf") for use in (self, other)]
        return self.started_at < ends[1] and other.started_at < ends[0]


def listed(text: str) -> list[Job]:
    """Jobs from squeue's output in FORMAT, oldest first."""
    jobs = []
    for line in text.splitlines():
        number, *rest = line.split("|", maxsplit=FORMAT.count("|"))
        if number.isdecimal() and len(rest) == FORMAT.count("|"):  # else of a job whose name has line breaks
            jobs.append(Job(int(number), *rest))
    return sorted(jobs, key=lambda job: job.id)


def recorded(events: str) -> list[Use]:
    """Uses from what prolog, task prolog and epilog wrote (slurm.settings), in the order of their starts."""
    uses: list[Use] = []
    for line in events.splitlines():
        event, seconds, job, *devices = line.split()
        if event == "start":
            uses.append(Use(int(job), float(seconds)))
            continue
        last = next((use for use in reversed(uses) if use.job == int(job)), None)
        if last is None and event == "end":  # an epilog without a prolog: cancelled on its way to the node
            continue
        assert last is not None, f"{line}: of a job that did not start"
        if event == "end":
            last.ended_at = float(seconds)
        elif devices:
            last.gpus = tuple(map(int, devices[0].split(",")))
    return uses


def most_at_once(uses: list[Use]) -> int:
    """How many of them ran at the same moment, at most."""
    starts = [use.started_at for use in uses]
    return max(sum(use.started_at <= start < (use.ended_at or float("inf")) for use in uses) for start in starts)


def sharing(uses: list[Use]) -> list[tuple[Use, Use]]:
    """Pairs that had a GPU in common at some moment."""
    return [
        (one, other)
        for i, one in enumerate(uses)
        for other in uses[:i]
        if set(one.gpus) & set(other.gpus) and one.overlaps(other)
    ]
