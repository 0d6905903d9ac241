"""Energy and idle power from a recorded counter and a clock that the test moves."""

import json

import pynvml
import pytest
import recorded_nvml
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure import machine
from peft_tradeoffs.measure.machine import NO_GPU, EnergyMeter, Gpu, IdlePower
from recorded_nvml import MIB, OTHER_UUID, UUID, Device


class World:
    """A GPU and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = Device()
        self.nvml = recorded_nvml.install(monkeypatch, Device(f"GPU-{OTHER_UUID}"), self.device)
        self.s = 1000.0
        monkeypatch.setattr(machine, "perf_counter", lambda: self.s)

    def go(self, seconds: float, watts: float) -> None:
        self.s += seconds
        self.device.energy_mJ += round(1000 * seconds * watts)

    def train(self, meter: EnergyMeter, seconds: float, watts: float) -> None:
        meter.start()
        self.go(seconds, watts)
        meter.stop()


@pytest.fixture
def world(monkeypatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def gpu(world) -> Gpu:
    return Gpu(UUID)


def all_null(meter: EnergyMeter, reason: str) -> None:
    assert meter.summary(100) == dict.fromkeys(machine.KEYS, Missing(reason))


def test_stretches_add_up_and_what_lies_between_does_not(world, gpu):
    meter = EnergyMeter(gpu)
    world.train(meter, 20, 300)
    world.go(100, 120)  # evaluation
    world.train(meter, 10, 600)
    assert meter.summary(400) == {
        "energy_J": 12_000.0,
        "energy_J_per_sample": 30.0,
        "mean_power_W": 400.0,
        "energy_window_s": 30.0,
        "energy_window_short": False,
    }


def test_a_short_window_is_marked(world, gpu):
    meter = EnergyMeter(gpu)
    world.train(meter, 29.9, 300)
    values = meter.summary(1)
    assert values["energy_window_short"] is True
    assert values["mean_power_W"] == pytest.approx(300)


def test_a_resumed_run_counts_its_earlier_attempts(world, gpu):
    first = EnergyMeter(gpu)
    world.train(first, 20, 300)
    totals = json.loads(json.dumps(first.totals()))
    world.train(first, 5, 300)  # after the state was saved: trained again
    world.device.energy_mJ = 0  # another machine, another counter
    second = EnergyMeter(gpu)
    second.restore(totals)
    world.train(second, 20, 100)
    values = second.summary(1)
    assert values["energy_J"] == 8000.0
    assert values["energy_window_s"] == 40.0


def test_an_attempt_with_nothing_left_to_train_keeps_the_energy(world, gpu):
    first = EnergyMeter(gpu)
    world.train(first, 20, 300)
    second = EnergyMeter(Missing("no driver"))
    second.restore(first.totals())
    assert second.summary(1)["energy_J"] == 6000.0


def test_a_stretch_that_an_exception_left_open_does_not_count(world, gpu):
    meter = EnergyMeter(gpu)
    world.train(meter, 20, 300)
    meter.start()
    world.go(20, 300)
    assert meter.summary(1)["energy_J"] == 6000.0


def test_on_a_cpu():
    meter = EnergyMeter(NO_GPU)
    meter.start()
    meter.stop()
    all_null(meter, NO_GPU.reason)


def test_a_gpu_that_nvml_does_not_have():
    meter = EnergyMeter(Missing("NVML, nvmlInit: Driver Not Loaded"))
    meter.start()
    meter.stop()
    all_null(meter, "NVML, nvmlInit: Driver Not Loaded")


def test_without_a_counter(world, gpu):
    world.device.refused["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    meter = EnergyMeter(gpu)
    world.train(meter, 20, 300)
    all_null(meter, "no energy counter: NVML, nvmlDeviceGetTotalEnergyConsumption: Not Supported")


def test_on_a_mig_instance(world):
    world.nvml.devices.append(recorded_nvml.mig(world.device))
    meter = EnergyMeter(Gpu(recorded_nvml.MIG_UUID))
    world.train(meter, 20, 300)
    all_null(meter, "MIG instance: the energy counter is the whole card's")


@pytest.mark.parametrize(("mode", "whole"), [([1, 1], False), ([1, 0], False), ([0, 1], True)])
def test_on_a_card_in_mig_mode_that_cuda_gave_by_the_cards_uuid(world, gpu, mode, whole):
    world.device.mig_mode = mode  # now, and after the next reset
    meter, idle = EnergyMeter(gpu), IdlePower()
    world.train(meter, 40, 300)
    reason = "MIG mode is on: the energy counter is the whole card's, not this job's instance's"
    if whole:
        assert meter.summary(1)["energy_J"] == 12_000.0
        assert idle.finish(gpu) == 300.0
    else:
        all_null(meter, reason)
        assert idle.finish(gpu) == Missing(reason)


def test_a_card_that_knows_no_mig_has_its_energy(world, gpu):
    world.device.refused["nvmlDeviceGetMigMode"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    meter = EnergyMeter(gpu)
    world.train(meter, 40, 300)
    assert meter.summary(1)["energy_J"] == 12_000.0


def test_a_counter_that_fails_midway_gives_no_part_of_the_energy(world, gpu):
    meter = EnergyMeter(gpu)
    world.train(meter, 20, 300)
    meter.start()
    world.device.refused["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVML_ERROR_GPU_IS_LOST
    meter.stop()
    world.device.refused.clear()
    world.train(meter, 20, 300)
    missing = meter.summary(1)["energy_J"]
    assert missing.reason.startswith("measured in a part of the run only: no energy counter")
    assert missing.reason.endswith("GPU is lost")


def test_an_attempt_that_was_not_measured_spoils_the_run(world, gpu):
    first = EnergyMeter(Missing("no driver"))
    first.start()
    first.stop()
    second = EnergyMeter(gpu)
    second.restore(first.totals())
    world.train(second, 40, 300)
    all_null(second, "no driver")
    third = EnergyMeter(gpu)
    world.train(third, 40, 300)
    third.restore(first.totals())
    all_null(third, "measured in a part of the run only: no driver")


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (0.05, "the energy counter, which moves every 0.1 s, did not move during 0.05 s of training"),
        (5, "the energy counter stood still during 5.0 s of training"),
    ],
)
def test_a_counter_that_did_not_move_is_no_0(world, gpu, seconds, reason):
    meter = EnergyMeter(gpu)
    world.train(meter, seconds, 0)
    all_null(meter, reason)


def test_a_last_stretch_shorter_than_the_counters_tick_spoils_nothing(world, gpu):
    meter = EnergyMeter(gpu)
    world.train(meter, 40, 300)
    world.train(meter, 0.05, 0)
    assert meter.summary(1)["energy_J"] == 12_000.0


def test_a_counter_that_stood_still_in_one_stretch(world, gpu):
    meter = EnergyMeter(gpu)
    world.train(meter, 40, 300)
    world.train(meter, 5, 0)
    all_null(meter, "measured in a part of the run only: the energy counter stood still during 5.0 s of training")


def test_a_counter_that_went_back(world, gpu):
    meter = EnergyMeter(gpu)
    world.train(meter, 40, -1)
    all_null(meter, "the energy counter went back during training (was the driver loaded again?)")


def test_nothing_was_trained(world, gpu):
    all_null(EnergyMeter(gpu), "no stretch of training was measured")
    meter = EnergyMeter(gpu)
    world.train(meter, 40, 300)
    values = meter.summary(0)
    assert values["energy_J"] == 12_000.0
    assert values["energy_J_per_sample"] == Missing("no sample was trained on")


def test_idle_power_of_the_gpu_that_is_used(world, gpu):
    idle = IdlePower()
    world.go(8, 72.5)
    assert idle.finish(gpu) == 72.5


@pytest.mark.parametrize(
    ("seconds", "watts", "reason"),
    [
        (0.99, 72, "the imports took 0.99 s; idle power needs 1 s"),
        (4, 0, "the energy counter did not move during 4.0 s"),
    ],
)
def test_idle_power_that_cannot_be_told(world, gpu, seconds, watts, reason):
    idle = IdlePower()
    world.go(seconds, watts)
    assert idle.finish(gpu) == Missing(reason)


@pytest.mark.parametrize("when", ["first", "last"])
def test_a_gpu_in_use_is_not_idle(world, gpu, when):
    world.device.processes = [(77, MIB)] if when == "first" else []
    idle = IdlePower()
    world.go(8, 72)
    world.device.processes = [(77, MIB)] if when == "last" else []
    assert idle.finish(gpu) == Missing("another process was on the GPU")


def test_idle_power_where_processes_are_not_listed(world, gpu):
    world.device.refused["nvmlDeviceGetComputeRunningProcesses"] = pynvml.NVML_ERROR_NO_PERMISSION
    idle = IdlePower()
    world.go(8, 72)
    assert idle.finish(gpu).reason.startswith("whether the GPU was idle is not known")


def test_idle_power_without_a_counter_or_a_first_reading(world, gpu):
    world.nvml.refused["nvmlInit"] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    idle = IdlePower()
    world.go(8, 72)
    assert idle.finish(gpu) == Missing("NVML, nvmlInit: Driver Not Loaded")
    world.device.refused["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert IdlePower().finish(gpu).reason.startswith("no energy counter")
