"""The largest micro-batch that fits: search, agreement, resuming, and no side effects."""

from __future__ import annotations

import json
import math
import weakref
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from realness.trainer.config import ConfigError, EngineConfig, PenaltyConfig, TrainConfig
from realness.trainer.distributed.exit_codes import EXIT_OK
from realness.trainer.distributed.ranks import as_single_rank, rank, world_size
from realness.trainer.planning import rank_memory
from realness.trainer.planning.auto_batch import (
    choose_micro_batch,
    search,
    valid_sizes,
    with_micro_batch,
)
from realness.trainer.planning.memory import estimate_memory
from realness.trainer.planning.rank_memory import MEMORY_MARGIN, HostMemory
from realness.trainer.planning.trial import TrialRun
from realness.trainer.randomness import Stream
from realness.trainer.updates.sharded_gan import build_gan
from realness.trainer.updates.step import update_d
from tests.helpers.engine_runs import Stretches, play, shown, stretches
from tests.helpers.plain_gan import images, tiny
from tests.helpers.ranks import run_command, run_on_ranks, tiny_arguments, write_images
from tests.helpers.run_folders import write_run
from tests.helpers.systems import stylegan2

CPU = torch.device("cpu")
BATCH = 8


def automatic(config: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(config, engine=EngineConfig(device="cpu", auto_batch=True), **changes)


class SavedTensors(AbstractContextManager["SavedTensors"]):
    """An allocator for tensors kept by autograd, which runs out at `limit` bytes."""

    def __init__(self, limit: float = math.inf) -> None:
        self.limit, self.live, self.peak = limit, 0, 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept[0])

    def _pack(self, tensor: Tensor) -> _Kept:
        size = tensor.nbytes
        if self.live + size > self.limit:
            raise torch.OutOfMemoryError(f"{self.live + size} bytes of {self.limit}")
        self.live += size
        self.peak = max(self.peak, self.live)
        kept = _Kept([tensor])
        weakref.finalize(kept, self._free, size)
        return kept

    def _free(self, size: int) -> None:
        self.live -= size

    def __enter__(self) -> SavedTensors:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


class _Kept(list[Tensor]):
    """A list that can be referred to weakly."""


class FakeMemory:
    """Real trials on a CPU, with `SavedTensors` in place of CUDA's allocator."""

    remark = ""

    def __init__(self, capacity: float) -> None:
        self.capacity = int(capacity)
        self.tried: list[int] = []

    def needs(self, config: TrainConfig) -> dict[str, int]:
        self.tried.append(config.engine.micro_batch)
        num_ranks, peaks = world_size(), {}
        with as_single_rank(), SavedTensors((1 - MEMORY_MARGIN) * self.capacity) as memory:
            for name in TrialRun(config, num_ranks, CPU).updates():
                peaks[name], memory.peak = memory.peak, memory.live
        return peaks

    def release(self) -> None:
        pass


class LinearMemory:
    """A cost in bytes per image, plus a constant independent of the batch."""

    remark = ""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tried: list[int] = []

    def needs(self, config: TrainConfig) -> dict[str, int]:
        size = config.engine.micro_batch
        self.tried.append(size)
        if 100 + 10 * size > self.capacity:
            raise torch.OutOfMemoryError
        return {"D": 100 + 10 * size, "G": 100}

    def release(self) -> None:
        pass


def test_the_search_finds_the_largest_and_tries_few() -> None:
    config = automatic(tiny(96))
    sizes = valid_sizes(config, 1)
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96]
    for capacity in range(100, 1300, 7):
        memory = LinearMemory(capacity)
        found = search(config, sizes, memory)
        fitting = [size for size in sizes if 100 + 10 * size <= (1 - MEMORY_MARGIN) * capacity]
        assert found.micro_batch == max(fitting, default=0)
        assert found.needed == (100 + 10 * max(fitting) if fitting else 0)
        assert memory.tried[0] == 96
        assert len(memory.tried) == len(set(memory.tried)) <= 5


def test_only_valid_sizes_are_tried() -> None:
    """Groups of 4 images for D's standard deviation; path lengths of every second image."""
    config = stylegan2("ffhq256-stylegan2")
    assert valid_sizes(replace(config, batch_size=48), 2) == [4, 8, 12, 24]
    config = replace(config, batch_size=48, d=replace(config.d, minibatch_group=1))
    assert valid_sizes(config, 2) == [2, 4, 6, 8, 12, 24]


def peak_of_r1(config: TrainConfig, first_sample: int) -> int:
    """Peak bytes that D's update keeps in the run itself."""
    gan = build_gan(config, CPU)
    with SavedTensors() as memory:
        update_d(gan, images(Stream.D_REAL, 0, BATCH), first_sample)
    gan.close()
    return memory.peak


def later_r1_step() -> None:
    """R1 runs in one update of 64 and needs more memory: the first updates prove nothing."""
    penalty = PenaltyConfig(r1_gamma=10.0, penalty_images=64 * BATCH)
    small = tiny(BATCH, generator="resnet")
    config = automatic(small, penalty=penalty, d=replace(small.d, d_width=16))
    part, whole = (
        [peak_of_r1(with_micro_batch(config, size), first) for first in (BATCH, 64 * BATCH)]
        for size in (4, 8)
    )
    without = replace(config, penalty=PenaltyConfig())
    plain = max(FakeMemory(1e9).needs(with_micro_batch(without, 8)).values())
    assert whole[0] <= plain < whole[1]
    assert part[1] < whole[1]
    # Whole batches fit except for R1.
    limit = (max(plain, part[1]) + whole[1]) / 2
    memory = FakeMemory(limit / (1 - MEMORY_MARGIN))
    chosen = choose_micro_batch(config, CPU, memory)
    assert memory.tried == [8, 2, 4]
    assert chosen == with_micro_batch(config, 4)
    assert choose_micro_batch(without, CPU, memory) == with_micro_batch(without, 8)


def test_no_later_r1_step_runs_out_of_memory() -> None:
    run_on_ranks(1, later_r1_step)


def chosen_and_played(
    config: TrainConfig, limits: list[float]
) -> tuple[TrainConfig, list[int], Stretches]:
    """A rank's choice and trials with its limit, and its state after three iterations."""
    memory = FakeMemory(limits[rank()])
    random_state = torch.get_rng_state()
    chosen = choose_micro_batch(config, CPU, memory)
    assert torch.equal(torch.get_rng_state(), random_state)
    gan = build_gan(chosen, CPU)
    play(gan, range(3))
    state = stretches(gan)
    gan.close()
    return chosen, memory.tried, state


@pytest.mark.slow
def test_a_rank_that_runs_out_decides_for_all_and_leaves_no_trace() -> None:
    """Batch and spectral normalisation, R1 and Adam: bit for bit as with --micro-batch."""
    config, ample, scarce = automatic(tiny(2 * BATCH)), 1e9, 1.2e6
    (chosen, first, state), (chosen_too, second, state_too) = run_on_ranks(
        2, chosen_and_played, config, [ample, scarce]
    )
    assert first == [8]
    assert second == [8, 2, 4]
    assert chosen == chosen_too == with_micro_batch(config, 4)
    explicit = with_micro_batch(config, 4)
    for (_, tried, wanted), found in zip(
        run_on_ranks(2, chosen_and_played, explicit, [ample, ample]),
        (state, state_too),
        strict=True,
    ):
        assert tried == []
        for (name, _, values), (_, _, same) in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(values, same, err_msg=name)


def resumed(
    folder: Path, *, then: tuple[int, int], ranks: int, generator: str = "dcgan", **changes: Any
) -> list[int]:
    """The micro-batches tried by a run of 32 images begun with `then`: (micro-batch, ranks)."""
    micro_batch, ranks_then = then
    config = automatic(tiny(4 * BATCH, generator=generator), **changes)
    started = with_micro_batch(config, micro_batch)
    run = folder / "run"
    if not run.exists():
        write_run(run, started)
    (run / "environment.json").write_text(json.dumps({"num_ranks": ranks_then}))
    memory = LinearMemory(100 + 320 + 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("realness.trainer.planning.auto_batch.world_size", lambda: ranks)
        choose_micro_batch(replace(config, run_dir=str(run)), CPU, memory)
    return memory.tried


def test_a_resumed_run_keeps_its_batch_statistics(tmp_path: Path) -> None:
    """Passes of 4 images on each of 2 ranks equal passes of 8 on one rank."""
    assert resumed(tmp_path, then=(4, 2), ranks=1) == [8]
    assert resumed(tmp_path, then=(4, 2), ranks=4) == [2]
    assert resumed(tmp_path, then=(4, 2), ranks=1, accept_config_change=True)[0] == 32
    local = replace(tiny(BATCH).g, batch_statistics="local")
    assert resumed(tmp_path, then=(4, 2), ranks=1, g=local) == [4]
    with pytest.raises(ConfigError, match=r"on each of 2 ranks, which 16 ranks .*; use 2"):
        resumed(tmp_path, then=(4, 2), ranks=16)
    (tmp_path / "run" / "environment.json").unlink()


def test_a_resumed_run_without_batch_statistics_is_free(tmp_path: Path) -> None:
    assert resumed(tmp_path, then=(4, 2), ranks=1, generator="resnet")[0] == 32


def test_what_cannot_fit_is_refused_with_the_estimate(tmp_path: Path) -> None:
    config = automatic(tiny(BATCH, generator="resnet"))
    with pytest.raises(ConfigError) as caught:
        choose_micro_batch(config, CPU, LinearMemory(50))
    message = str(caught.value)
    for part in ("1 image(s) per pass, the minimum", "activations of the D step", "GiB  total"):
        assert part in message
    for remedy in ("--precision bf16", "narrower networks"):
        assert remedy in message
    for useless in ("more ranks", "--checkpoint-activations", "--offload-optimizer"):
        assert useless not in message
    write_run(tmp_path / "run", with_micro_batch(automatic(tiny(BATCH)), 4))
    (tmp_path / "run" / "environment.json").write_text('{"num_ranks": 1}')
    config = automatic(tiny(BATCH), run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"4 .* this run was started[^$]*more ranks, --micro"):
        choose_micro_batch(config, CPU, LinearMemory(50))


def test_it_excludes_a_micro_batch() -> None:
    with pytest.raises(ConfigError, match="but --micro-batch=4; use one of the two"):
        EngineConfig(auto_batch=True, micro_batch=4)


def sampled_batches(config: TrainConfig) -> list[int]:
    gan = build_gan(config, CPU)
    sizes: list[int] = []
    gan.ema.module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert shown(gan, 10).shape[0] == 10
    gan.close()
    return sizes


def test_grids_are_made_in_passes_too() -> None:
    config = with_micro_batch(automatic(tiny(BATCH, generator="resnet")), 4)
    assert run_on_ranks(1, sampled_batches, config) == [[4, 4, 2]]


def test_on_a_cpu_the_estimate_decides(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = automatic(tiny(64))
    totals = {
        size: max(HostMemory().needs(with_micro_batch(config, size)).values()) for size in (8, 16)
    }
    estimated = estimate_memory(with_micro_batch(config, 8), 1)["total"]
    assert estimated < totals[8] < totals[16]
    for free, expected in ((totals[16] - 1, 8), (totals[16], 16)):
        monkeypatch.setattr(
            rank_memory, "available_memory", lambda free=free: math.ceil(free / 0.9)
        )
        assert choose_micro_batch(config, CPU).engine.micro_batch == expected
    assert "--auto-batch: 16 of 64 images per pass (4 passes); 0." in caplog.text
    assert "at the heaviest step (D with R1), by the estimate" in caplog.text


def scarce_memory() -> None:
    """Bytes that suffice for 4 images per pass, but not for 8."""
    _set_available(4)


def ample_memory() -> None:
    _set_available(8)


def _set_available(size: int) -> None:
    from realness.launch.train_ffhq import parse

    config = parse(tiny_arguments(Path("data"), Path("run"))).config
    needed = max(HostMemory().needs(with_micro_batch(config, size)).values())
    rank_memory.available_memory = lambda: math.ceil(needed / (1 - MEMORY_MARGIN))


@pytest.mark.slow
def test_a_run_records_what_was_found_and_resumes_with_it(tmp_path: Path) -> None:
    data, run = write_images(tmp_path / "data", 16), tmp_path / "run"
    arguments = tiny_arguments(data, run, "--auto-batch", "--device", "cpu")
    for kimg, memory in (("0.008", scarce_memory), ("0.016", ample_memory)):
        assert run_command([*arguments, "--total-kimg", kimg], memory) == EXIT_OK
        engine = json.loads((run / "config.json").read_text())["engine"]
        assert (engine["micro_batch"], engine["auto_batch"]) == (4, False)
