"""What a GPU's clocks did under load."""

from typing import Any

from peft_tradeoffs.measure.gpu import Gpu

CLOCKS = ("sm_clock_MHz", "memory_clock_MHz")
EVENTS = "clock_event_reasons"
NO_READING = "no stretch of training has ended"


class Clocks:
    """A meter of the training phase: reads the clocks at the end of every stretch, before the GPU slows down again."""

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self._lowest: dict[str, float] = {}
        self._events: set[str] | None = None
        self._refused: dict[str, str] = {}
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
                "lowest": {key: facts[key] for key in CLOCKS},
                EVENTS: facts[EVENTS],
                "reasons": {key: why for key, why in facts["reasons"].items() if key in (*CLOCKS, EVENTS)},
            }
        )

    def totals(self) -> dict[str, Any]:
        """Readings, the lowest clocks in MHz and every reason for a clock below its maximum that was given.

        None where no reading has it; `reasons` says by key why one has not.
        """
        return {
            "readings": self._readings,
            "lowest": {key: self._lowest.get(key) for key in CLOCKS},
            EVENTS: None if self._events is None else sorted(self._events),
            "reasons": dict(self._refused) if self._readings else dict.fromkeys((*CLOCKS, EVENTS), NO_READING),
        }

    def restore(self, totals: dict[str, Any]) -> None:
        """Add the `totals` of the attempts before this one."""
        if not totals["readings"]:
            return
        self._readings += totals["readings"]
        self._refused = {**totals["reasons"], **self._refused}
        if totals[EVENTS] is not None:
            self._events = (self._events or set()) | set(totals[EVENTS])
        for key, value in totals["lowest"].items():
            if value is not None:
                self._lowest[key] = min(value, self._lowest.get(key, value))
