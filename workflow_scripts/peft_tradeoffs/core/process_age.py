"""How long this process has run, of clocks that nobody sets. Cheap to import."""

import os
import time
from pathlib import Path

_IMPORTED_S = time.monotonic()


def process_age_s() -> float:
    """Seconds since the process started; where the system does not tell, since this module was imported.

    psutil's create_time is of the wall clock, which may have been set since.
    """
    imported_s = time.monotonic() - _IMPORTED_S
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after boot, as CLOCK_BOOTTIME counts
        return max(imported_s, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (OSError, ValueError, IndexError, AttributeError):
        return imported_s
