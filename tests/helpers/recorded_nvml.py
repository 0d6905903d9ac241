"""NVML as an H100 (driver 580.159.04) answered, in place of pynvml; errors, constants and structures are pynvml's own.

Recorded there: UUID, energy, MIG mode, clock event reasons, the largest SM clock, power limit and a process with its
memory. The other values only stand in for a card's.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import pynvml
import pytest

UUID = "d30f9034-7164-cd73-c9f2-cff3a3bfad42"
OTHER_UUID = "0f6e5a11-52b8-4b1c-9a0e-3d8f1c77aa10"
MIG_UUID = "7b1f3c52-8f0d-5d5e-b2b4-6f6a2f3e9c01"
OWN_BYTES = 641_728_512  # recorded: a process that had made a context
MIB = 2**20


class Device:
    """What NVML holds of one device; a test changes what it needs. `refused`: function name -> NVML error code."""

    def __init__(self, uuid: str = f"GPU-{UUID}", card: "Device | None" = None) -> None:
        self.uuid = uuid
        self.card = card
        self.name = "NVIDIA H100 80GB HBM3"
        self.energy_mJ = 16_966_932
        self.processes: list[tuple[int, int | None]] = []  # pid, bytes
        self.clock_event_reasons = 1
        self.mig_mode = [0, 0]
        self.capability = [9, 0]
        self.refused: dict[str, int] = {}


class Nvml(types.ModuleType):
    """The functions that the workflow calls; any other function of NVML is an error."""

    def __init__(self, *devices: Device) -> None:
        super().__init__("pynvml")
        self.devices = list(devices)
        self.refused: dict[str, int] = {}
        for name, value in vars(pynvml).items():
            if name.startswith(("NVML", "c_nvml", "nvmlStruct")):
                setattr(self, name, value)
        for name, answer in self._answers().items():
            setattr(self, name, self._function(name, answer))

    def _function(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            refused = dict(self.refused)
            for argument in arguments:
                refused |= argument.refused if isinstance(argument, Device) else {}
            if name in refused:
                raise pynvml.NVMLError(refused[name])
            return answer(*arguments)

        return function

    def _answers(self) -> dict[str, Callable[..., Any]]:
        return {
            "nvmlInit": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "580.159.04",
            "nvmlSystemGetCudaDriverVersion": lambda: 13000,
            "nvmlDeviceGetCount": lambda: len([device for device in self.devices if device.card is None]),
            "nvmlDeviceGetHandleByIndex": lambda index: self.devices[index],
            "nvmlDeviceGetHandleByUUID": self._by_uuid,
            "nvmlDeviceGetUUID": lambda device: device.uuid,
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda device: device.card,
            "nvmlDeviceGetName": lambda device: device.name,
            "nvmlDeviceGetTotalEnergyConsumption": lambda device: device.energy_mJ,
            "nvmlDeviceGetComputeRunningProcesses": self._processes,
            "nvmlDeviceGetClockInfo": lambda device, domain: {1: 345, 2: 2619}[domain],
            "nvmlDeviceGetMaxClockInfo": lambda device, domain: {1: 1980, 2: 2619}[domain],
            "nvmlDeviceGetEnforcedPowerLimit": lambda device: 700_000,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda device: device.clock_event_reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: device.clock_event_reasons,
            "nvmlDeviceGetCudaComputeCapability": lambda device: device.capability,
            "nvmlDeviceGetMigMode": lambda device: device.mig_mode,
            "nvmlDeviceGetComputeMode": lambda device: pynvml.NVML_COMPUTEMODE_DEFAULT,
            "nvmlDeviceGetPersistenceMode": lambda device: 1,
            "nvmlDeviceGetMemoryInfo": lambda device: pynvml.c_nvmlMemory_t(total=(10 if device.card else 80) * 2**30),
        }

    def _by_uuid(self, uuid: str | bytes) -> Device:
        text = uuid.decode() if isinstance(uuid, bytes) else uuid
        for device in self.devices:
            if device.uuid == text:
                return device
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def _processes(self, device: Device) -> list[Any]:
        found = []
        for pid, size in device.processes:
            struct = pynvml.c_nvmlProcessInfo_v3_t(pid=pid, usedGpuMemory=size or 0)
            process = pynvml.nvmlStructToFriendlyObject(struct)
            process.usedGpuMemory = size  # None where the driver keeps it back, as pynvml gives it
            found.append(process)
        return found


def install(monkeypatch: pytest.MonkeyPatch, *devices: Device) -> Nvml:
    """Put a recorded NVML in pynvml's place for a test."""
    fake = Nvml(*devices)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def mig(card: Device) -> Device:
    """An instance of a card; of such NVML refuses clocks, power and energy."""
    instance = Device(f"MIG-{MIG_UUID}", card)
    asked_of_cards = (
        *("nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetEnforcedPowerLimit"),
        *("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetMigMode", "nvmlDeviceGetPersistenceMode"),
        *("nvmlDeviceGetComputeMode", "nvmlDeviceGetName"),
    )
    instance.refused = dict.fromkeys(asked_of_cards, pynvml.NVML_ERROR_NOT_SUPPORTED)
    card.mig_mode = [1, 1]
    return instance
