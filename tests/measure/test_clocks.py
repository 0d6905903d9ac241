"""The clocks of a GPU under load."""

import json

import pynvml
import pytest
import recorded_nvml
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure.machine import Clocks, Gpu
from recorded_nvml import UUID, Device


@pytest.fixture
def device(monkeypatch) -> Device:
    device = Device()
    recorded_nvml.install(monkeypatch, device)
    return device


def test_the_lowest_clock_and_every_reason_are_kept(device):
    clocks = Clocks(Gpu(UUID))
    clocks.start()
    clocks.stop()
    device.clock_event_reasons = 0x4
    clocks.stop()
    assert clocks.totals() == {
        "readings": 2,
        "lowest": {"sm_clock_MHz": 345, "memory_clock_MHz": 2619},
        "clock_event_reasons": ["gpu_idle", "sw_power_cap"],
        "reasons": {},
    }


def test_a_resumed_run_keeps_what_its_earlier_attempts_read(device):
    lowest = {"sm_clock_MHz": 210, "memory_clock_MHz": None}
    earlier = {"readings": 3, "lowest": lowest, "clock_event_reasons": ["hw_slowdown"]}
    earlier["reasons"] = {"memory_clock_MHz": "NVML, nvmlDeviceGetClockInfo: Not Supported"}
    clocks = Clocks(Gpu(UUID))
    clocks.restore(earlier)
    assert clocks.totals() == earlier
    clocks.stop()
    assert clocks.totals()["lowest"] == {"sm_clock_MHz": 210, "memory_clock_MHz": 2619}


def test_what_the_driver_refuses_is_null_with_its_reason(device):
    device.refused = dict.fromkeys(
        ("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons"), pynvml.NVML_ERROR_NOT_SUPPORTED
    )
    clocks = Clocks(Gpu(UUID))
    clocks.stop()
    totals = clocks.totals()
    clock, events = (
        f"NVML, {name}: Not Supported" for name in ("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons")
    )
    assert totals == {
        "readings": 1,
        "lowest": {"sm_clock_MHz": None, "memory_clock_MHz": None},
        "clock_event_reasons": None,
        "reasons": {"sm_clock_MHz": clock, "memory_clock_MHz": clock, "clock_event_reasons": events},
    }
    resumed = Clocks(Gpu(UUID))
    resumed.restore(json.loads(json.dumps(totals)))
    assert resumed.totals() == totals
    device.refused.clear()
    device.clock_event_reasons = 0
    resumed.stop()
    assert resumed.totals()["clock_event_reasons"] == []  # asked, and none
    assert resumed.totals()["reasons"]["clock_event_reasons"] == events  # of the first reading


def test_without_a_gpu():
    clocks = Clocks(Missing("no driver"))
    clocks.stop()
    totals = clocks.totals()
    assert totals["readings"] == 0 and totals["clock_event_reasons"] is None
    assert set(totals["reasons"].values()) == {"no stretch of training has ended"}
    resumed = Clocks(Missing("no driver"))
    resumed.restore(totals)
    assert resumed.totals() == totals
