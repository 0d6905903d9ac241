"""What a GPU's clocks did under load."""

from typing import Any

from peft_tradeoffs.gpu import Gpu

CLOCKS = ("sm_clock_MHz", "memory_clock_MHz")


class Clocks:
    """A meter of the training phase: reads the clocks at the end of every stretch, before the GPU slows down again."""

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self._lowest: dict[str, float] = {}
        self._reasons: set[str] = set()
        self._readings = 0

    def start(self) -> None:
        """Nothing: an idle GPU's clocks say little."""

    def stop(self) -> None:
        """Read the clocks. The caller has just synchronised the device."""
        if self._gpu is None:
            return
        facts = self._gpu.facts()
        self.restore(
            {
                "readings": 1,
                "lowest": {key: facts[key] for key in CLOCKS if facts[key] is not None},
                "clock_event_reasons": facts["clock_event_reasons"] or [],
            }
        )

    def totals(self) -> dict[str, Any]:
        """Readings, the lowest clocks in MHz and every reason for a clock below its maximum that was given."""
        return {
            "readings": self._readings,
            "lowest": dict(self._lowest),
            "clock_event_reasons": sorted(self._reasons),
        }

    def restore(self, totals: dict[str, Any]) -> None:
        """Add the `totals` of the attempts before this one."""
        self._readings += totals["readings"]
        self._reasons |= set(totals["clock_event_reasons"])
        for key, value in totals["lowest"].items():
            self._lowest[key] = min(value, self._lowest.get(key, value))
