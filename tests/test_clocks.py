"""The clocks of a GPU under load."""

import pytest
import recorded_nvml
from peft_tradeoffs.clocks import Clocks
from peft_tradeoffs.gpu import Gpu
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
    }


def test_a_resumed_run_keeps_what_its_earlier_attempts_read(device):
    earlier = {"readings": 3, "lowest": {"sm_clock_MHz": 210}, "clock_event_reasons": ["hw_slowdown"]}
    clocks = Clocks(Gpu(UUID))
    clocks.restore(earlier)
    assert clocks.totals() == earlier
    clocks.stop()
    assert clocks.totals()["lowest"] == {"sm_clock_MHz": 210, "memory_clock_MHz": 2619}


def test_what_the_driver_refuses_is_left_out(device):
    import pynvml

    device.refused = dict.fromkeys(
        ("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons"), pynvml.NVML_ERROR_NOT_SUPPORTED
    )
    clocks = Clocks(Gpu(UUID))
    clocks.stop()
    assert clocks.totals() == {"readings": 1, "lowest": {}, "clock_event_reasons": []}


def test_without_a_gpu():
    clocks = Clocks(None)
    clocks.stop()
    assert clocks.totals()["readings"] == 0
