"""The measurements of `--auto-batch`: the trial, the memory of a GPU, the memory of a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn

from realness.kernels.layout import format_of
from realness.trainer.config import TrainConfig
from realness.trainer.distributed.exit_codes import EXIT_OK
from realness.trainer.engines import compiled
from realness.trainer.planning import host_memory, rank_memory
from realness.trainer.planning.auto_batch import search, with_micro_batch
from realness.trainer.planning.memory import resident_memory
from realness.trainer.planning.rank_memory import DeviceMemory, HostMemory
from realness.trainer.planning.trial import TrialRun
from realness.trainer.updates import step
from realness.trainer.updates.sharded_gan import build_gan
from tests.helpers.engine_runs import play
from tests.helpers.plain_gan import tiny
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.systems import stylegan2

CPU = torch.device("cpu")
BATCH = 8


def spied(name: str, function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def spy(*arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    return spy


def test_penalties_are_tried_however_seldom_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    config = stylegan2("ffhq256-stylegan2")
    penalty = replace(config.penalty, penalty_images=10**6, path_length_images=10**6)
    due: list[str] = []
    for name in ("gradient_penalty", "path_length_penalty"):
        monkeypatch.setattr(step, name, spied(name, getattr(step, name), due))
    rehearsal = TrialRun(with_micro_batch(replace(config, penalty=penalty), 4), 1, CPU)
    for _ in range(2):
        assert list(rehearsal.updates()) == ["D", "G"]
    assert due == 2 * (2 * ["gradient_penalty"] + 2 * ["path_length_penalty"])


def layouts(*modules: nn.Module) -> set[tuple[str, torch.memory_format]]:
    """A set that collects the layout of each convolution's output, by the layer's name."""
    seen: set[tuple[str, torch.memory_format]] = set()

    def record(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, inputs, output: seen.add((name, format_of(output)))

    for module in modules:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(record(name))
    return seen


def layouts_of_a_run(config: TrainConfig) -> set[tuple[str, torch.memory_format]]:
    gan = build_gan(config, CPU)
    seen = layouts(gan.g.module, gan.d.module)
    play(gan, range(1))
    gan.close()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["contiguous", "channels_last"])
def test_a_trial_has_the_layout_of_the_run(
    setting: Literal["contiguous", "channels_last"],
) -> None:
    config = tiny(BATCH)
    config = replace(config, engine=replace(config.engine, memory_format=setting))
    trial = TrialRun(config, 1, CPU)
    seen = layouts(trial.gan.g.module, trial.gan.d.module)
    assert list(trial.updates()) == ["D", "G"]
    (expected,) = run_on_ranks(1, layouts_of_a_run, config)
    assert seen == expected
    wanted = torch.contiguous_format if setting == "contiguous" else torch.channels_last
    assert {layout for _, layout in seen} == {wanted}


def test_a_trial_is_compiled_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, [10**6] * 8)
    networks: list[nn.Module] = []
    real_trial = rank_memory.TrialRun

    def trial(*arguments: Any, **options: Any) -> TrialRun:
        made = real_trial(*arguments, **options)
        networks.extend(cast(Any, engine)._network for engine in (made.gan.g, made.gan.d))
        return made

    monkeypatch.setattr(rank_memory, "TrialRun", trial)
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    for asked in (False, True):
        config = tiny(BATCH)
        config = replace(config, engine=replace(config.engine, compile=asked))
        networks.clear()
        DeviceMemory(config, CPU).needs(config)
        assert [isinstance(network, compiled.Compiled) for network in networks] == [asked] * 2


def share_of_100_bytes() -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_memory, "available_memory", lambda: 100)
        return HostMemory().capacity


def test_ranks_of_a_node_share_its_memory() -> None:
    assert run_on_ranks(2, share_of_100_bytes) == [50, 50]


def test_a_control_group_limits_what_is_there(tmp_path: Path) -> None:
    """Version 2 above, version 1 below; inactive file pages count as available."""
    membership, root = tmp_path / "cgroup", tmp_path / "groups"
    membership.write_text("4:cpu,memory:/missing/job\n3:pids:/\n0::/slurm/job\n")
    for folder, names, values in (
        ("slurm/job", ("memory.max", "memory.current", "inactive_file"), ("max", 9, 0)),
        ("slurm", ("memory.max", "memory.current", "inactive_file"), (1000, 700, 50)),
        (
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            (400, 300, 20),
        ),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, value in zip(names[:2], values[:2], strict=True):
            (root / folder / name).write_text(f"{value}\n")
        statistics = f"anon 1\n{names[2]} {values[2]}\n"
        (root / folder / "memory.stat").write_text(statistics)
    assert list(host_memory._left_in_groups(membership, root))[1:] == [120, 350]
    assert 0 < host_memory.available_memory() < 2**50


class FakeCuda:
    """A device of 1,000 MB, 900 of them free; a trial's networks take 20 of these."""

    def __init__(self, patch: pytest.MonkeyPatch, peaks: list[int]) -> None:
        self.fraction, self.fractions, self.peaks, self.built = 0.95, [], peaks, False
        for name in (
            "mem_get_info",
            "memory_allocated",
            "max_memory_allocated",
            "get_per_process_memory_fraction",
            "set_per_process_memory_fraction",
        ):
            patch.setattr(torch.cuda, name, getattr(self, name))
        for name in ("empty_cache", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda *_: None)

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 900 * 10**6, 1000 * 10**6

    def memory_allocated(self, device: torch.device) -> int:
        was_built, self.built = self.built, True
        return 20 * 10**6 if was_built else 0

    def max_memory_allocated(self, device: torch.device) -> int:
        if not self.peaks:
            raise torch.OutOfMemoryError
        return self.peaks.pop(0)

    def get_per_process_memory_fraction(self, device: torch.device) -> float:
        return self.fraction

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device) -> None:
        self.fraction = fraction
        self.fractions.append(fraction)


def test_a_trial_is_capped_by_what_the_run_holds_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_micro_batch(tiny(BATCH), 4)
    missing = sum(resident_memory(config, 1).values()) - 20 * 10**6
    cuda = FakeCuda(monkeypatch, [10**6 * peak for peak in (500, 300, 400, 600)])
    memory = DeviceMemory(config, CPU)
    assert memory.capacity == 900 * 10**6
    assert memory.needs(config) == {"D": 500 * 10**6 + missing, "G": 600 * 10**6 + missing}
    assert cuda.fraction == pytest.approx((0.9 * 900e6 - missing) / 1000e6)
    memory.release()
    assert cuda.fraction == 0.95
    assert search(config, [4], memory).micro_batch == 0
    assert cuda.fraction == 0.95


def test_graphs_keep_the_memory_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_micro_batch(tiny(BATCH), 4)
    engine = replace(config.engine, zero_g=0, zero_d=0)
    needs = []
    for graphs in (False, True):
        FakeCuda(monkeypatch, [10**6 * peak for peak in (500, 300, 400, 600)])
        memory = DeviceMemory(config, CPU)
        needs.append(memory.needs(replace(config, engine=replace(engine, cuda_graphs=graphs))))
    for name in ("D", "G"):
        assert needs[1][name] - needs[0][name] == (600 - 20) * 10**6


WIDE = ("--batch-size", "256", "--d-width", "64", "--r1-gamma", "10", "--penalty-images", "768")


def small_gpu() -> None:
    """Give the GPU just the memory that whole batches need, which leaves no tenth free."""
    from realness.launch.train_ffhq import parse

    device = torch.device("cuda", 0)
    config = parse([*tiny_arguments(Path("data"), Path("run")), *WIDE]).config
    memory = DeviceMemory(config, device)
    needed = max(memory.needs(with_micro_batch(config, 256)).values())
    memory.release()
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(needed / total, device)


@pytest.mark.gpu
def test_a_run_on_a_small_gpu_comes_through_its_r1_steps(tmp_path: Path) -> None:
    data, run = write_images(tmp_path / "data"), tmp_path / "run"
    arguments = tiny_arguments(data, run, *WIDE, "--auto-batch", "--device", "cuda")
    assert run_command([*arguments, "--total-kimg", "1.024"], small_gpu) == EXIT_OK
    engine = json.loads((run / "config.json").read_text())["engine"]
    assert 0 < engine["micro_batch"] < 256
