"""What an image of training costs in each system: `python benchmarks/system_costs.py`.

Operations and bytes of an average iteration, per image of its batch, at 64x64 and 1024x1024:
counted on fake tensors in bf16, as `traffic.py` counts them. CPU seconds at 64x64: measured on one
thread, in float32, over one iteration of 4 images after a first one, with lazy penalties by their
share of the updates. Networks are those of the presets, with their widths at that resolution;
nothing is augmented. LSGAN and HingeGAN cost what the standard GAN does. Appends rows to
results/system_costs.csv, and prints the table of docs/methods.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from traffic import count
from train_step import RESULTS, append
from training_runs import Row

from realness.launch.p2gan_presets import p2gan
from realness.launch.presets import demo, far_resnet, relativistic_resnet, zero_gp_resnet
from realness.launch.r3gan_presets import ffhq_r3gan
from realness.launch.realness_presets import baseline_dcgan, realness_dcgan, wgan_gp_dcgan
from realness.launch.stylegan2_presets import realness_stylegan2, stylegan2
from realness.trainer.config import EngineConfig, FakeAsRealConfig, TrainConfig, with_fields
from realness.trainer.objectives.configs import StandardConfig
from realness.trainer.planning.flops import penalised_shares, with_penalties, without_penalties
from realness.trainer.planning.trial import TrialRun

MEASURED, SIDES = 64, (64, 1024)
BATCH = 4
SYSTEMS: dict[str, Callable[[int], TrainConfig]] = {
    "standard GAN, DCGAN": lambda side: baseline_dcgan(side, StandardConfig()),
    "WGAN-GP (5 updates of D), DCGAN": wgan_gp_dcgan,
    "RealnessGAN, DCGAN": realness_dcgan,
    "0GP-sample, ResNet": zero_gp_resnet,
    "FAR-GAN, ResNet": far_resnet,
    "relativistic with R1 and R2, ResNet": relativistic_resnet,
    "P2GAN, SNGAN's ResNet": lambda side: p2gan(side, "sn-resnet"),
    "StyleGAN2": stylegan2,
    "RealnessGAN, StyleGAN2": realness_stylegan2,
    "R3GAN": ffhq_r3gan,
    "RealnessGAN, the demo's light networks": lambda side: with_fields(demo(), resolution=side),
}


def counted(config: TrainConfig) -> tuple[float, float]:
    """Operations and bytes per image."""
    config = replace(config, engine=EngineConfig(device="cpu", precision="bf16"))
    iteration = count(config).iteration
    return iteration.flops / config.batch_size, iteration.num_bytes / config.batch_size


def seconds(config: TrainConfig) -> dict[str, float]:
    """CPU seconds of an update of "D" and of "G", the second time they run."""
    trial = TrialRun(config, 1, torch.device("cpu"))
    spent: dict[str, float] = {}
    for _ in range(2):
        start = time.process_time()
        for name in trial.updates():
            now = time.process_time()
            spent[name], start = now - start, now
    return spent


def measured(config: TrainConfig) -> float:
    """CPU seconds per image of an average iteration."""
    share_d, share_g = penalised_shares(config)
    optimizer, far = config.optimizer, config.far
    if far.far_fakes:
        part = BATCH / config.batch_size
        fakes, candidates = int(far.far_fakes * part), int(far.far_candidates * part)
        far = FakeAsRealConfig(far_fakes=fakes, far_candidates=candidates)
    config = replace(config, batch_size=BATCH, far=far, engine=EngineConfig(device="cpu"))
    penalised = seconds(with_penalties(config))
    plain = penalised
    if min(share_d, share_g) < 1:
        plain = seconds(without_penalties(config))
    total = 0.0
    for name, updates, share in (("D", optimizer.k_d, share_d), ("G", optimizer.k_g, share_g)):
        total += updates * ((1 - share) * plain[name] + share * penalised[name])
    return total / BATCH


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| System, networks | GFLOP, 64 | MB, 64 | CPU s, 64 | GFLOP, 1024 | GB, 1024 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        small, large = (f"{row[f'flop_{side}'] / 1e9:,.3g}" for side in SIDES)
        cpu = f"{row['cpu_s_64']:.2g}" if row["cpu_s_64"] else "–"
        cells = (
            *(row["system"], small, f"{row['bytes_64'] / 1e6:,.3g}", cpu),
            *(large, f"{row['bytes_1024'] / 1e9:,.3g}"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--counts-only", action="store_true", help="measure no CPU seconds")
    parser.add_argument("--results", type=Path, default=RESULTS / "system_costs.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for system in options.only:
        configs = {side: with_fields(SYSTEMS[system](side), augment="none") for side in SIDES}
        cpu = "" if options.counts_only else round(measured(configs[MEASURED]), 4)
        row: Row = {"system": system, "cpu_s_64": cpu}
        for side, config in configs.items():
            flops, num_bytes = counted(config)
            row |= {f"flop_{side}": round(flops), f"bytes_{side}": round(num_bytes)}
        rows.append(row)
        append(options.results, [row])
        print(system, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
