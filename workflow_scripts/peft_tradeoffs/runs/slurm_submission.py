"""What sbatch says when it does not take a job: what passes by itself, and what waits for a slot. Cheap to import."""

import re
import sys
from collections.abc import Callable
from typing import Any

# slurmctld may have got the request, and the answer may have been lost.
LOST_ANSWER = re.compile(
    "Socket timed out|Zero Bytes were transmitted or received|receive failure|Connection reset by peer", re.IGNORECASE
)
MOMENTARY = re.compile(
    "|".join(
        (
            "Unable to contact slurm controller",
            "Zero Bytes were transmitted or received",
            "Resource temporarily unavailable",
            "Socket timed out",
            "temporarily unable to accept job",
            "(connect|send|receive|shutdown|connection) failure",
            "Connection (refused|reset by peer|timed out)",
            "Transport endpoint is not connected",
            "Temporary failure in name resolution",
            "(Network is unreachable|No route to host)",
            "in standby mode",
            "rate limit",
            "Munge encode failed",
            "Interrupted system call",
            "Cannot allocate memory",
        )
    ),
    re.IGNORECASE,
)
# The reasons that Slurm gives for a limit on the number of jobs; those on their size or time are permanent.
LIMIT = re.compile(r"\b(?:Assoc|QOS)\w*?Submit\w*", re.IGNORECASE)
OWN_LIMIT = re.compile(r"\b(?:QOSMaxSubmitJobs?PerUser|AssocMaxSubmitJob)", re.IGNORECASE)  # own jobs alone count
OTHER_LIMIT = re.compile(r"\b(?:Assoc|QOS)[A-Z]\w+")
POLICY = re.compile(r"Job violates accounting/QOS policy \(job submit limit", re.IGNORECASE)


def passes(said: str) -> bool:
    """Whether sbatch failed for a reason that passes by itself, a limit on the number of jobs too."""
    return bool(MOMENTARY.search(sbatch_words(said))) or limited(said) is not None


def answer_lost(said: str) -> bool:
    """Whether slurmctld may have the job all the same."""
    return bool(LOST_ANSWER.search(sbatch_words(said)))


def limited(said: str) -> str | None:
    """The limit on the number of jobs that is reached, in Slurm's word for it; None if it is no such limit.

    Without a word of Slurm's, its sentence on policies in general, which may be of any limit.
    """
    words = sbatch_words(said)
    if found := LIMIT.search(words):
        return found[0]
    return None if OTHER_LIMIT.search(words) or not POLICY.search(words) else "job submit limit"


def only_own_jobs_count(limit: str) -> bool:
    """Whether the limit is one on this user's jobs, so that it is free where the user has none."""
    return bool(OWN_LIMIT.search(limit))


def named(limit: str) -> bool:
    """Whether Slurm named the limit."""
    return bool(LIMIT.fullmatch(limit))


def sbatch_words(said: str) -> str:
    """What sbatch said, on one line, of the plugin's report of it; without the call, which holds texts of a user's."""
    words = re.split(r"\n\s*sbatch call:", said)[0]
    words = re.sub(r"^.*?The error message was '", "", words, flags=re.DOTALL)
    return re.sub(r"\s*sbatch: (error: )?", "; ", " ".join(words.rstrip(" .'\n").split())).removeprefix("; ")


class Heard:
    """The executor's logger, without the tracebacks of refused submissions; `take` may keep an error for itself."""

    def __init__(self, logger: Any, take: Callable[[str], bool]) -> None:
        self._logger, self._take = logger, take

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def error(self, message: Any, *arguments: Any, **options: Any) -> None:
        """Log an error, unless it is taken."""
        raised = options.get("exc_info") and sys.exc_info()[0]
        if raised and raised.__name__ == "WorkflowError":
            options.pop("exc_info")
        if not self._take(str(message)):
            self._logger.error(message, *arguments, **options)
