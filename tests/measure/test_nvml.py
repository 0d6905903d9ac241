"""The GPU as NVML gives it and who else is on it, against a recorded NVML; and, marked gpu, the real one."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pynvml
import pytest
import recorded_nvml
import tiny
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure import machine
from peft_tradeoffs.measure.machine import Gpu, Isolation, Unavailable, check_alone, new_pids
from recorded_nvml import MIB, MIG_UUID, OTHER_UUID, OWN_BYTES, UUID, Device

STRANGER = 4_194_305  # above the kernel's largest process id


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def nvml(monkeypatch, device) -> recorded_nvml.Nvml:
    return recorded_nvml.install(monkeypatch, Device(f"GPU-{OTHER_UUID}"), device)


def test_importing_is_cheap():
    heavy = "{'torch', 'pynvml', 'numpy'}"
    code = f"import sys; from peft_tradeoffs.measure import machine; print({heavy} & set(sys.modules))"
    scripts = str(tiny.REPOSITORY / "workflow_scripts")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=scripts)
    assert done.stdout == "set()\n", done.stderr


def test_torchs_device_0_is_not_nvmls(nvml, monkeypatch):
    visible = {0: UUID}  # CUDA_VISIBLE_DEVICES=1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: types.SimpleNamespace(uuid=visible[i]))
    assert Gpu(0).uuid == f"GPU-{UUID}"
    assert machine.visible_uuids() == [UUID]


@pytest.mark.parametrize("uuid", [UUID, f"GPU-{UUID}"])
def test_a_uuid_with_or_without_its_prefix(nvml, uuid):
    assert Gpu(uuid).uuid == f"GPU-{UUID}"
    assert Gpu(uuid).name == "NVIDIA H100 80GB HBM3"
    assert not Gpu(uuid).is_mig


def test_a_uuid_that_nvml_does_not_have(nvml):
    with pytest.raises(Unavailable, match=rf"no GPU and no MIG instance of UUID {MIG_UUID} .*Not Found"):
        Gpu(MIG_UUID)
    found = Gpu.find(MIG_UUID)
    assert not found and MIG_UUID in found.reason


def test_without_a_driver(nvml):
    nvml.refused["nvmlInit"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert Gpu.find(UUID) == Missing("NVML, nvmlInit: NVML Shared Library Not Found")
    with pytest.raises(Unavailable):
        machine.machine_gpus()


def test_without_pynvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = Gpu.find(UUID)
    assert not found and found.reason.startswith("nvidia-ml-py is not installed")


def test_gpus_that_may_not_be_asked_are_left_out(nvml):
    nvml.devices[0].refused["nvmlDeviceGetUUID"] = pynvml.NVML_ERROR_NO_PERMISSION
    assert [found.uuid for found in machine.machine_gpus()] == [f"GPU-{UUID}"]


def test_the_first_gpu_and_whether_it_has_bf16(nvml):
    assert machine.first_gpu() == ("NVIDIA H100 80GB HBM3", True)
    nvml.devices[0].capability = [7, 5]
    assert machine.first_gpu() == ("NVIDIA H100 80GB HBM3", False)
    nvml.devices.clear()
    assert machine.first_gpu() is None
    nvml.refused["nvmlInit"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert machine.first_gpu() is None


def test_energy(nvml, device):
    assert Gpu(UUID).energy_J() == 16_966.932
    device.refused["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    energy_J = Gpu(UUID).energy_J()
    assert energy_J.reason.startswith("no energy counter")
    assert energy_J.reason.endswith("Not Supported")


def test_processes(nvml, device):
    assert Gpu(UUID).processes() == []
    device.processes = [(904, OWN_BYTES), (17, None)]
    assert Gpu(UUID).processes() == [(904, 612.0), (17, None)]
    assert Gpu(UUID).process_MiB(904) == 612.0
    assert Gpu(UUID).process_MiB(17) == Missing("the driver lists this process without its memory")
    assert "does not list this process" in Gpu(UUID).process_MiB(5).reason


def test_a_process_listed_twice_counts_once_with_all_its_memory(nvml, device):
    device.processes = [(904, 3 * MIB), (904, 4 * MIB)]
    assert Gpu(UUID).processes() == [(904, 7.0)]


def test_facts(nvml):
    assert Gpu(UUID).facts() == {
        "uuid": f"GPU-{UUID}",
        "mig_instance": False,
        "name": "NVIDIA H100 80GB HBM3",
        "driver_version": "580.159.04",
        "cuda_driver_version": "13.0",
        "sm_clock_MHz": 345,
        "max_sm_clock_MHz": 1980,
        "memory_clock_MHz": 2619,
        "max_memory_clock_MHz": 2619,
        "power_limit_W": 700.0,
        "clock_event_reasons": ["gpu_idle"],
        "mig_mode": False,
        "compute_mode": "default",
        "persistence_mode": True,
        "memory_MiB": 81920.0,
        "reasons": {},
    }


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, []),
        (0x4 | 0x20, ["sw_power_cap", "sw_thermal_slowdown"]),
        (0x8 | 0x80, ["hw_slowdown", "hw_power_brake_slowdown"]),
        (0x1 | 0x8000, ["gpu_idle", "0x8000"]),
    ],
)
def test_clock_event_reasons_by_name(nvml, device, bits, names):
    device.clock_event_reasons = bits
    assert Gpu(UUID).facts()["clock_event_reasons"] == names


def test_an_older_driver_gives_clock_event_reasons_by_their_older_name(nvml, device):
    device.clock_event_reasons = 0x4
    device.refused["nvmlDeviceGetCurrentClocksEventReasons"] = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    facts = Gpu(UUID).facts()
    assert (facts["clock_event_reasons"], facts["reasons"]) == (["sw_power_cap"], {})
    device.refused["nvmlDeviceGetCurrentClocksEventReasons"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    facts = Gpu(UUID).facts()
    assert facts["clock_event_reasons"] is None
    assert facts["reasons"] == {"clock_event_reasons": "NVML, nvmlDeviceGetCurrentClocksEventReasons: Not Supported"}


def test_every_clock_event_reason_of_pynvml_has_its_name():
    prefix = "nvmlClocksThrottleReason"
    known = {name.removeprefix(prefix).lower(): value for name, value in vars(pynvml).items() if prefix in name}
    ours = {name.replace("_", ""): bit for bit, name in machine.CLOCK_EVENT_REASONS.items()}
    aliases = {"all", "none", "userdefinedclocks", "unknown"}
    assert ours == {name: bit for name, bit in known.items() if name not in aliases}


def test_a_fact_that_the_driver_refuses_is_null_with_a_reason(nvml, device):
    device.refused = {
        "nvmlDeviceGetMigMode": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetEnforcedPowerLimit": pynvml.NVML_ERROR_NO_PERMISSION,
    }
    facts = Gpu(UUID).facts()
    assert facts["mig_mode"] is None
    assert facts["power_limit_W"] is None
    assert facts["max_sm_clock_MHz"] == 1980
    assert facts["reasons"] == {
        "power_limit_W": "NVML, nvmlDeviceGetEnforcedPowerLimit: Insufficient Permissions",
        "mig_mode": "NVML, nvmlDeviceGetMigMode: Not Supported",
    }
    json.dumps(facts, allow_nan=False)


def test_a_mig_instance_has_memory_of_its_own_and_no_energy(nvml, device):
    instance = recorded_nvml.mig(device)
    nvml.devices.append(instance)
    instance.processes, device.processes = [(904, OWN_BYTES)], [(904, OWN_BYTES), (5, MIB)]
    found = Gpu(MIG_UUID)
    assert found.uuid == f"MIG-{MIG_UUID}"
    assert found.energy_J() == Missing("MIG instance: the energy counter is the whole card's")
    assert found.processes() == [(904, 612.0)]
    facts = found.facts()
    assert facts["reasons"] == {}
    assert facts["mig_instance"]
    assert facts["mig_mode"]
    assert facts["memory_MiB"] == 10240.0
    assert facts["max_sm_clock_MHz"] == 1980


# who else is there


def test_alone(nvml, device):
    device.processes = [(904, OWN_BYTES)]
    assert check_alone(Gpu(UUID), {904}, allow_shared=False) == []


def test_another_process_is_an_error_that_names_it(nvml, device, monkeypatch):
    monkeypatch.setattr(machine, "_command", {77: "python3"}.get)
    device.processes = [(904, OWN_BYTES), (77, 512 * MIB), (78, None)]
    with pytest.raises(InputError) as caught:
        check_alone(Gpu(UUID), {904}, allow_shared=False)
    message = str(caught.value)
    assert "pid 77 (python3, 512 MiB), pid 78 (memory unknown)" in message
    assert "pid 904" not in message
    assert f"GPU-{UUID}" in message
    assert "CUDA_VISIBLE_DEVICES" in message
    assert "training.allow_shared_gpu: true" in message
    assert "\n" not in message


def test_another_process_that_is_allowed_is_recorded(nvml, device):
    device.processes = [(STRANGER, 512 * MIB)]
    others = check_alone(Gpu(UUID), set(), allow_shared=True)
    assert others == [{"pid": STRANGER, "MiB": 512.0, "command": None}]


def test_a_command_is_named_outside_containers_alone(monkeypatch):
    own = str(Path("/proc/self/ns/pid").readlink())
    monkeypatch.setattr(machine, "INITIAL_PID_NAMESPACE", own)
    assert machine._command(os.getpid()) in ("python", "python3", "python3.11", "pytest", "py.test")
    assert machine._command(STRANGER) is None
    monkeypatch.setattr(machine, "INITIAL_PID_NAMESPACE", "pid:[1]")
    assert machine._command(os.getpid()) is None


@pytest.mark.parametrize(
    ("before", "after", "own"),
    [
        (set(), {os.getpid()}, {os.getpid()}),
        (set(), {904}, {904}),  # a container: the driver gives the id outside
        ({17}, {17, 904}, {904}),
        ({17}, {17, 904, os.getpid()}, {os.getpid()}),
        ({os.getpid()}, {os.getpid(), 904}, {904}),  # a stranger whose id outside is ours inside
        (set(), {904, 905}, set()),  # one is ours, nobody can say which
        ({17}, {17}, set()),
    ],
)
def test_which_process_is_ours(nvml, device, before, after, own):
    device.processes = [(pid, MIB) for pid in after]
    assert new_pids(Gpu(UUID), before) == own


def test_a_job_alone_in_a_container(nvml, device):
    watch = Isolation(Gpu(UUID), allow_shared=False)
    device.processes = [(904, OWN_BYTES)]
    watch.context_made()
    assert watch.process_MiB() == 612.0
    assert watch.shared() is False
    assert watch.others() == []


def test_a_process_that_is_leaving_is_waited_for(nvml, device, monkeypatch):
    device.processes = [(STRANGER, 300 * MIB)]
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: device.processes.clear())
    watch = Isolation(Gpu(UUID), allow_shared=False, patience_s=10.0)
    assert watch.others() == []
    device.processes = [(STRANGER, 300 * MIB)]
    monkeypatch.setattr(machine.time, "sleep", lambda seconds: None)
    with pytest.raises(InputError, match=f"pid {STRANGER}"):
        Isolation(Gpu(UUID), allow_shared=False, patience_s=0.2)


def test_a_training_stretch_that_another_process_joined_is_an_error_at_its_end(nvml, device):
    watch = Isolation(Gpu(UUID), allow_shared=False)
    device.processes = [(os.getpid(), OWN_BYTES)]
    watch.context_made()
    watch.begin()
    watch.start()
    device.processes.append((STRANGER, 300 * MIB))
    with pytest.raises(InputError, match=f"pid {STRANGER}"):
        watch.stop()


def test_a_resumed_run_keeps_whom_it_met_and_the_next_seed_does_not(nvml, device):
    device.processes = [(STRANGER, 300 * MIB)]
    watch = Isolation(Gpu(UUID), allow_shared=True)
    totals = watch.totals()
    device.processes = []
    watch.begin()
    assert watch.others() == []
    watch.restore(totals)
    assert watch.shared() is True and watch.others()[0]["pid"] == STRANGER


def test_a_busy_gpu_is_refused_before_a_context_is_made(nvml, device):
    device.processes = [(STRANGER, MIB)]
    with pytest.raises(InputError, match=f"pid {STRANGER}"):
        Isolation(Gpu(UUID), allow_shared=False)


def test_a_process_that_comes_later_is_found(nvml, device):
    watch = Isolation(Gpu(UUID), allow_shared=False)
    device.processes = [(os.getpid(), OWN_BYTES)]
    watch.context_made()
    device.processes.append((STRANGER, MIB))
    with pytest.raises(InputError, match=f"pid {STRANGER}"):
        watch.check()


def test_an_allowed_process_stays_recorded_after_it_left(nvml, device):
    device.processes = [(STRANGER, MIB)]
    watch = Isolation(Gpu(UUID), allow_shared=True)
    device.processes = [(STRANGER, MIB), (904, OWN_BYTES)]
    watch.context_made()
    device.processes = [(904, OWN_BYTES)]
    watch.check()
    assert watch.shared() is True
    assert [other["pid"] for other in watch.others()] == [STRANGER]
    assert watch.process_MiB() == 612.0


def test_a_driver_that_hides_this_process_may_hide_others(nvml):
    watch = Isolation(Gpu(UUID), allow_shared=False)
    watch.context_made()
    assert watch.shared() == Missing(machine.HIDDEN)
    assert "does not list" in watch.process_MiB().reason


def test_a_driver_that_lists_no_processes(nvml, device):
    device.refused["nvmlDeviceGetComputeRunningProcesses"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    watch = Isolation(Gpu(UUID), allow_shared=False)
    watch.context_made()
    for missing in (watch.shared(), watch.process_MiB()):
        assert missing.reason.endswith("Not Supported")


def test_isolation_without_nvml():
    watch = Isolation(Missing("no driver"), allow_shared=False)
    watch.context_made()
    assert watch.shared() == watch.process_MiB() == Missing("no driver")


# the real NVML; in a process of its own, which has no CUDA context at first

REAL = """
import json, time
from peft_tradeoffs.measure import machine
first = {found.uuid: found.processes() for found in machine.machine_gpus()}
import torch
found = machine.Gpu(0)
uuids = machine.visible_uuids()
before = found.processes()
watch = machine.Isolation(found, allow_shared=True)
start_J = found.energy_J()
x = torch.zeros(2**27, device="cuda")  # 512 MiB
torch.cuda.synchronize()
watch.context_made()
time.sleep(2)
end_J = found.energy_J()
print(json.dumps({"first": first.get(found.uuid, before), "before": before, "uuids": uuids, "uuid": found.uuid,
    "J": end_J - start_J, "facts": found.facts(), "MiB": watch.process_MiB(), "shared": watch.shared()}))
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_real_nvml():
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        capture_output=True,
        text=True,
        cwd=tiny.REPOSITORY / "workflow_scripts",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["before"] == found["first"]  # reading the UUID makes no context
    assert found["uuid"] == f"GPU-{found['uuids'][0]}"
    assert found["J"] > 5
    assert found["MiB"] > 512
    assert found["shared"] == bool(found["before"])
    assert set(found["facts"]["reasons"]) <= {"mig_mode"}  # not every card knows MIG
    assert found["facts"]["name"] == torch.cuda.get_device_name(0)
