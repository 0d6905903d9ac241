"""Learning rates by step, loss scaling of fp16, optimizers and their state."""

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import causal_fits
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.measure.devices import check_precision
from peft_tradeoffs.training import methods, updates
from peft_tradeoffs.training.updates import LossScale, Updates, optimizer_bytes, schedule_factor
from small_fits import CPU, SETTINGS, Bag, Memory, fit
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import get_scheduler

BITS8 = {"optimizer": "adamw_8bit"}


def wide() -> Bag:
    """A Bag whose embedding is large enough for 8 bits, and as bitsandbytes cuts it into blocks, the last not whole."""
    model = Bag()
    torch.manual_seed(1)
    model.embedding, model.linear = nn.Embedding(30, 150), nn.Linear(150, 2)
    return model


def test_linear_schedule_warms_up_and_decays():
    assert [schedule_factor("linear", step, 2, 6) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [schedule_factor("linear", step, 0, 2) for step in range(2)] == [1.0, 0.5]


@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 20), (4, 5)])
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_factors_are_those_of_transformers(kind, warmup, total):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    theirs = []
    for _ in range(total + 1):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    own = [schedule_factor(kind, step, warmup, total) for step in range(total)]
    assert own[warmup:] == theirs[warmup:total]
    assert own[:warmup] == pytest.approx(theirs[1 : warmup + 1])  # a step earlier: theirs begins at 0


def test_rates_follow_the_schedule_that_is_set():
    rates = {
        kind: [row["learning_rate"] for row in fit(lr_scheduler_type=kind)[1].progress.rows]
        for kind in ("linear", "cosine", "constant_with_warmup")
    }
    assert rates["constant_with_warmup"] == [0.1] * 3
    assert rates["cosine"][-1] < rates["linear"][-1] < 0.1


def test_the_loss_scale_moves_as_that_of_torch(monkeypatch):
    monkeypatch.setattr(updates, "GROWS_AFTER", 3)
    own, theirs = LossScale(CPU), torch.amp.GradScaler("cpu", growth_interval=3)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for overflow in [True, False, False, False, False, True, True, False]:
        loss = (weight * 2).sum()
        theirs.scale(loss).backward()
        scaled = own.scaled(torch.tensor(1.5))
        assert scaled == theirs.scale(torch.tensor(1.5))
        gradient = weight.grad.clone()
        if overflow:
            weight.grad[1] = gradient[1] = math.inf
        theirs.unscale_(optimizer)
        own.unscale([gradient])
        assert torch.equal(gradient, weight.grad)
        assert bool(own.overflowed) is overflow
        theirs.step(optimizer)
        theirs.update()
        own.update()
        optimizer.zero_grad()
        assert own.state()["scale"] == theirs.get_scale()


@pytest.mark.parametrize("changes", [{}, BITS8], ids=["adamw", "8-bit"])
def test_steps_that_overflow_in_fp16_are_skipped_and_counted(monkeypatch, changes):
    assert fit(precision="fp16", max_steps=6, **changes)[1].skipped_steps == 0
    monkeypatch.setattr(updates, "INIT_SCALE", 2.0**26)  # halved until float16 holds the gradients
    every, model, moments = Memory(every=True), wide(), {"exp_avg", "exp_avg_sq", "state1", "state2"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, result = fit(every, model, precision="fp16", max_steps=12, **changes)
    taken = 0
    for state in every.history:
        optimizer = state["updates"]["optimizer"].values()
        counts = {int(values["step"]) for values in optimizer}
        same = [torch.equal(value, before[name]) for name, value in state["parameters"].items()]
        assert counts == {taken + (not all(same))}  # all weights stay, or a step counts
        assert all(same) or not any(same)
        before, taken = state["parameters"], counts.pop()
        tensors = [values[key] for values in optimizer for key in moments & {*values}]
        assert taken or not any(tensor.any() for tensor in tensors)
    assert 0 < taken < len(every.history) == 11
    assert result.skipped_steps == 12 - taken - 1
    assert all(math.isfinite(row["train_loss"]) for row in result.progress.rows)


@pytest.mark.parametrize("changes", [{}, BITS8], ids=["adamw", "8-bit"])
def test_a_run_in_fp16_resumes_with_its_loss_scale(monkeypatch, changes):
    monkeypatch.setattr(updates, "INIT_SCALE", 2.0**26)
    every = Memory(every=True)
    expected, straight = fit(every, wide(), precision="fp16", max_steps=14, **changes)
    for stop in (1, 9):
        resumed, again = fit(Memory(every.history[stop - 1]), wide(), precision="fp16", max_steps=14, **changes)
        assert all(torch.equal(resumed.state_dict()[name], weight) for name, weight in expected.state_dict().items())
        assert again.skipped_steps == straight.skipped_steps > 0


def test_probe_and_warm_up_leave_the_loss_scale_alone(monkeypatch):
    """What is skipped is skipped in training: the first steps there have the first scale."""
    monkeypatch.setattr(updates, "INIT_SCALE", 2.0**26)
    every = Memory(every=True)
    fit(every, precision="fp16", max_steps=3)
    assert [float(state["updates"]["scale"]["scale"]) for state in every.history] == [2.0**25, 2.0**24]


def test_a_loss_that_is_not_finite_in_fp16_is_a_divergence():
    model = Bag()
    with torch.no_grad():
        model.linear.weight[0, 0] = math.inf
    assert fit(model=model, precision="fp16")[1].diverged_step == 1


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_allocating_the_state_leaves_weights_and_moments_as_they_were(kind):
    model = wide()
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    own = Updates(parameters, dataclasses.replace(SETTINGS, optimizer=kind), CPU)
    own.allocate_state()
    assert own.taken() == 0
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        state = own.optimizer.state[parameter]
        assert all(not torch.as_tensor(state[key]).any() for key in state if not key.startswith("qmap"))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("adamw", torch.float32), ("adamw", torch.bfloat16), ("adamw_8bit", torch.float32)]
)
def test_bytes_of_the_state_are_those_of_its_tensors(kind, dtype):
    model = wide().to(dtype)
    own = Updates(dict(model.named_parameters()), dataclasses.replace(SETTINGS, optimizer=kind), CPU)
    own.allocate_state()
    held = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in own.tensors()}
    assert optimizer_bytes(model.parameters(), kind) == sum(held.values())


def test_8_bit_adamw_ends_near_that_of_32():
    expected = fit(model=wide(), max_steps=15)[0]
    found = fit(model=wide(), max_steps=15, **BITS8)[0]
    start = wide().state_dict()
    for name, weight in expected.state_dict().items():
        away, moved = (found.state_dict()[name] - weight).norm(), (weight - start[name]).norm()
        assert 0 <= away < 0.05 * moved


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2}], ids=["", "parts"])
def test_8_bit_runs_resume(changes):
    every = Memory(every=True)
    expected, _ = fit(every, wide(), **BITS8, **changes)
    for stop in (1, 7):
        resumed, _ = fit(Memory(every.history[stop - 1]), wide(), **BITS8, **changes)
        assert all(torch.equal(resumed.state_dict()[name], weight) for name, weight in expected.state_dict().items())


class HostAdam(torch.optim.Optimizer):
    """Adam whose step count is a number of the host, as those of bitsandbytes."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "state1": torch.zeros_like(parameter), "state2": torch.zeros_like(parameter)}
                state["step"] += 1
                first, second = state["state1"], state["state2"]
                first.mul_(0.9).add_(parameter.grad, alpha=0.1)
                second.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
                rate = group["lr"] / (1 - 0.9 ** state["step"])
                parameter.addcdiv_(first, (second / (1 - 0.999 ** state["step"])).sqrt() + 1e-8, value=-rate)


class Graph(TorchDispatchMode):
    """Records what is launched, with the host's numbers as they are then; `replay` launches it on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self._launched: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self._launched.append((function, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, first in self._launched:
            found = function(*args, **kwargs)
            for held, value in zip(tree_leaves(first), tree_leaves(found), strict=True):
                if isinstance(held, torch.Tensor) and held is not value:
                    held.copy_(value)


@pytest.mark.parametrize("beside", [True, False], ids=["beside the graph", "within it"])
def test_an_update_beside_the_graph_corrects_the_bias_of_step_100(monkeypatch, beside):
    """Of a gradient that stays 1, each of Adam's steps is the learning rate; with a frozen step count it is not."""
    monkeypatch.setattr(updates, "_optimizer", lambda parameters, *_: HostAdam([{"params": parameters}]))
    weight = nn.Parameter(torch.zeros(1))
    own = Updates({"weight": weight}, dataclasses.replace(SETTINGS, max_grad_norm=9.0, **BITS8), CPU)
    own.allocate_state()
    weight.grad = torch.ones(1)
    with Graph() as graph, torch.no_grad():
        own.begin()
        weight.grad.add_(1.0)
        own.on_device()
        if not beside:
            own.on_host(0.01)
    for _ in range(100 if beside else 99):
        graph.replay()
        if beside:
            own.on_host(0.01)
    assert own.taken() == (100 if beside else 1)
    assert (weight.item() == pytest.approx(-1.0, rel=1e-3)) is beside


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_causal.causal(tmp_path_factory.mktemp("causal")), causal_fits.splits(40)


@pytest.mark.parametrize("case", [case for case in causal_fits.CASES if case != "paged"])
def test_a_causal_model_learns_and_resumes_under_every_setting(causal, case):
    """What tests/gpu/test_gpu_settings.py does on a GPU, eagerly on a CPU."""
    state = Memory(due_at=8)
    expected, result = causal_fits.fit(*causal, case, CPU, state, max_steps=12, engine="eager")
    resumed, again = causal_fits.fit(*causal, case, CPU, Memory(state.saved), max_steps=12, engine="eager")
    assert all(torch.equal(expected[name], resumed[name]) for name in resumed)
    assert result.skipped_steps == again.skipped_steps
    assert (result.skipped_steps > 0) is ("fp16" in case)
    assert result.progress.rows[-1]["train_loss"] < result.progress.rows[0]["train_loss"]


def test_training_in_bfloat16_holds_what_is_said(causal):
    model = tiny.build(causal[0], task="sft", num_labels=0, dtype="bfloat16").model
    settings = dataclasses.replace(causal_fits.SETTINGS, optimizer="adamw")
    own = Updates(dict(model.named_parameters()), settings, CPU)
    own.allocate_state()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    held = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in own.tensors()}
    said = methods.training_bytes(model)
    assert said["optimizer"] == sum(held.values())
    assert said["gradients"] == 2 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16", "optimizer": "adamw_8bit", "lr_scheduler_type": "cosine"}, {"skipped_steps": 0}),
        ({"precision": "bf16", "dtype": "bfloat16"}, {"skipped_steps": None, "optimizer": "adamw"}),
    ],
    ids=["fp16", "bfloat16"],
)
def test_a_run_says_how_it_was_updated(tmp_path, finished, changes, said):
    results = finished / "results"
    before = json.loads((results / "runs/reviews/tiny/full/seed0/summary.json").read_text())
    settings = json.loads((results / "runs/reviews/tiny/full/seed0/env.json").read_text())["settings"] | changes
    words = ["--settings", json.dumps(settings), "--seeds", "0", "--output-dir", str(tmp_path)]
    words += ["--tokens", str(results / "tokens/reviews/tiny.npz"), "--model", str(results / "models/tiny")]
    script = finished / "workflow/workflow_scripts/train.py"
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, cwd=finished)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "seed0/summary.json").read_text())
    assert {key: run[key] for key in said} == said
    assert run["status"] == "completed"
    assert ("skipped_steps" in run["null_reasons"]) is (said["skipped_steps"] is None)
    assert run["optimizer_MiB"] < before["optimizer_MiB"]
    evaluated = (tmp_path / "seed0/metrics.csv").read_text().splitlines()
    assert len(evaluated) > 1


@pytest.mark.parametrize(("precision", "refused"), [("bf16", True), ("fp16", False), ("fp32", False)])
def test_bf16_on_a_gpu_without_it_names_fp16(monkeypatch, precision, refused):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    said = "training.precision: bf16, which Tesla V100 cannot compute; set precision: fp16"
    with pytest.raises(InputError, match=said) if refused else contextlib.nullcontext():
        check_precision(torch.device("cuda", 0), precision)
    check_precision(CPU, precision)
