"""Prepared sets in parts: which rank reads which images, in which order; nodes with one part."""

from __future__ import annotations

import json
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from realness.data_pipeline import Catalog, DataError, ImageStream, check_shards, open_catalog
from realness.data_pipeline import check as check_module
from realness.data_pipeline.order import parts_of_rank, ranks_of_part
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.trainer.config import ConfigError, TrainConfig, with_fields
from realness.trainer.distributed.collectives import on_all_ranks
from realness.trainer.distributed.ranks import rank, world_size
from realness.trainer.metrics import RealImages
from realness.trainer.run.data import check_parts, check_same_images, open_data
from realness.trainer.run.outputs import _shown_reals
from realness.trainer.run.state import Run
from tests.helpers.data_images import encoded, image_files, write_folder
from tests.helpers.ranks import run_on_ranks
from tests.helpers.streams import stream_of

SIZE = 32
NUM_IMAGES = 22
BATCH = 12


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def noise_files(count: int) -> dict[str, bytes]:
    """PNGs of 128 pixels, 50 kB each: 20 of them fill a shard of 1 MiB. The first one is small.

    In two parts the second is thus full first, and the next round starts with it.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 128, 128, 3), dtype=np.uint8)
    images[0] = 0
    return {
        f"{i:03d}.png": encoded(Image.fromarray(image), "PNG", compress_level=1)
        for i, image in enumerate(images)
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = image_files(NUM_IMAGES, SIZE, "PNG") | {"0/img00004x.jpg": b"bad"}
    return write_folder(tmp_path_factory.mktemp("source"), files)


def in_parts(source: Path, out: Path, parts: int) -> Path:
    prepare(source, out, Conversion(SIZE), num_workers=1, parts=parts)
    return out


def on_node(whole: Path, node: Path, parts: Sequence[int]) -> Path:
    """A copy of a set with the shards of these parts only."""
    shutil.copytree(whole, node)
    for folder in node.glob("part-*"):
        if int(folder.name.removeprefix("part-")) not in parts:
            shutil.rmtree(folder)
    return node


def open_stream(catalog: Catalog, number: int, num_ranks: int, **changes: Any) -> ImageStream:
    return stream_of(
        catalog, resolution=SIZE, global_batch=changes.pop("batch", BATCH), rank=number,
        world_size=num_ranks, seed=7, purpose=1, mirror=True, decoder="threads", decode_threads=1,
        max_bad_images=2, **changes,
    )  # fmt: skip


def run(
    catalog: Catalog, number: int = 0, num_ranks: int = 1, steps: int = 4, **changes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [steps, b, 3, R, R] and indices [steps, b] of a rank."""
    with open_stream(catalog, number, num_ranks, **changes) as stream:
        taken = [(next(stream), stream.indices) for _ in range(steps)]
    images, indices = zip(*taken, strict=True)
    return torch.stack(images), torch.stack(indices)


def test_images_are_dealt_out_alike_by_any_number_of_workers(tmp_path: Path) -> None:
    files = noise_files(61) | {"0007x.jpg": b"bad", "0033x.jpg": b""}
    write_folder(tmp_path / "in", files)
    for workers in (1, 3):
        out = tmp_path / str(workers)
        report = prepare(
            tmp_path / "in", out, Conversion(128), num_workers=workers, shard_mib=1, parts=2
        )
        assert (report.num_images, report.num_rejected) == (61, 2)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")
    shards = sorted(str(path.relative_to(out)) for path in out.glob("*/*.tar"))
    assert shards == [f"part-00{p}/shard-0000{s}.tar" for p in range(2) for s in range(2)]
    for part in range(2):
        stored = []
        for shard in sorted((out / f"part-00{part}").iterdir()):
            with tarfile.open(shard) as archive:
                stored += archive.getnames()
        assert stored == [f"{i:09d}.png" for i in range(part, 61, 2)]
    catalog, manifest = open_catalog(out), json.loads((out / "manifest.json").read_text())
    assert (manifest["num_parts"], manifest["num_shards"]) == (2, 4)
    good = sorted(name for name, data in files.items() if len(data) > 10)
    assert [catalog.name(i) for i in range(61)] == good
    prepare(tmp_path / "in", tmp_path / "whole", Conversion(128), shard_mib=1)
    whole = open_catalog(tmp_path / "whole")
    assert all(catalog.read(i) == whole.read(i) for i in range(61))
    assert catalog.digest != whole.digest


@pytest.mark.parametrize("stop_at", [3, 50])
def test_an_interrupted_set_in_parts_resumes_to_the_same_bytes(
    tmp_path: Path, stop_at: int
) -> None:
    write_folder(tmp_path / "in", noise_files(61) | {"0007x.jpg": b"bad", "0033x.jpg": b""})

    def interrupt(done: int, total: int, rejected: int) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    def pack(out: str, progress: object = None) -> int:
        report = prepare(
            tmp_path / "in", tmp_path / out, Conversion(128), shard_mib=1, parts=2, num_workers=1,
            progress=progress,  # type: ignore[arg-type]
        )  # fmt: skip
        return report.num_resumed

    with pytest.raises(KeyboardInterrupt):
        pack("cut", interrupt)
    assert pack("cut") == (0 if stop_at == 3 else 41)
    pack("straight")
    assert tree(tmp_path / "cut") == tree(tmp_path / "straight")


def test_other_numbers_of_parts_are_refused(source: Path, tmp_path: Path) -> None:
    out = in_parts(source, tmp_path / "out", 2)
    assert prepare(source, out, Conversion(SIZE), parts=2).was_complete
    with pytest.raises(DataError, match="num_parts is 2 there, 1 here"):
        prepare(source, out, Conversion(SIZE))
    with pytest.raises(DataError, match=f"{NUM_IMAGES} usable .* 23 parts; use --parts 22"):
        in_parts(source, tmp_path / "many", 23)
    assert not (tmp_path / "many.partial").exists()
    with pytest.raises(ValueError, match="parts=0 must be from 1"):
        in_parts(source, tmp_path / "none", 0)
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_parts": 2', '"num_parts": 3'))
    with pytest.raises(DataError, match="does not match its manifest"):
        open_catalog(out)


def test_a_set_from_before_there_were_parts_is_complete(source: Path, tmp_path: Path) -> None:
    out = in_parts(source, tmp_path / "out", 1)
    manifest = json.loads((out / "manifest.json").read_text())
    digest = open_catalog(out).digest
    del manifest["num_parts"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert open_catalog(out).digest == digest
    assert prepare(source, out, Conversion(SIZE)).was_complete


@pytest.mark.parametrize(("parts", "worlds"), [(1, (2, 3)), (2, (2, 4)), (4, (2, 3, 4, 6, 12))])
def test_any_number_of_ranks_shows_the_same_batches_from_its_own_parts(
    source: Path, tmp_path: Path, parts: int, worlds: tuple[int, ...]
) -> None:
    catalog = open_catalog(in_parts(source, tmp_path / "out", parts))
    images, indices = run(catalog)
    assert torch.equal(indices % parts, (torch.arange(BATCH) * parts // BATCH).expand_as(indices))
    for ranks in worlds:
        shares = [run(catalog, number, ranks) for number in range(ranks)]
        assert torch.equal(torch.cat([share[0] for share in shares], dim=1), images)
        assert torch.equal(torch.cat([share[1] for share in shares], dim=1), indices)
        for number, share in enumerate(shares):
            found = set((share[1] % parts).unique().tolist())
            assert found == set(parts_of_rank(number, ranks, parts))
            for part in range(parts):
                assert (part in found) == (number in ranks_of_part(part, ranks, parts))


def test_every_image_of_a_part_is_shown_once_in_each_of_its_epochs(
    source: Path, tmp_path: Path
) -> None:
    catalog = open_catalog(in_parts(source, tmp_path / "out", 4))
    _, indices = run(catalog, steps=22)
    for part in range(4):
        images = list(range(part, NUM_IMAGES, 4))
        shown = indices[indices % 4 == part]
        epochs = shown[: len(shown) // len(images) * len(images)].reshape(-1, len(images))
        assert len(epochs) == 66 // len(images)
        assert all(sorted(epoch) == images for epoch in epochs.tolist())
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 6
    # Each part has its own order.
    orders = {tuple((indices[indices % 4 == part] // 4)[:5].tolist()) for part in range(4)}
    assert len(orders) == 4


def test_a_stream_in_parts_resumes_within_an_epoch(source: Path, tmp_path: Path) -> None:
    catalog = open_catalog(in_parts(source, tmp_path / "out", 2))
    images, indices = run(catalog, steps=7)
    again = run(catalog, steps=4, first_sample=3 * BATCH)
    assert torch.equal(again[0], images[3:])
    assert torch.equal(again[1], indices[3:])
    # Another batch size continues with the same samples, in batches of another size.
    other = run(catalog, steps=8, first_sample=3 * BATCH, batch=6)
    assert torch.equal(other[1].reshape(4, 2, 2, 3).transpose(1, 2).reshape(4, 12), indices[3:])
    with pytest.raises(ValueError, match="first_sample=3 is not divisible by the 2 parts"):
        run(catalog, first_sample=3)
    with pytest.raises(ValueError, match=r"global_batch=9 is not divisible by the 2 parts.*use 10"):
        run(catalog, batch=9)


def test_bad_images_are_replaced_from_their_own_part(source: Path, tmp_path: Path) -> None:
    out = in_parts(source, tmp_path / "out", 2)
    good, _ = run(open_catalog(out), steps=8)
    record = np.load(out / "index.npy")[5]
    path = out / "part-001" / "shard-00000.tar"
    data = bytearray(path.read_bytes())
    data[int(record["offset"]) + 60] ^= 4
    path.write_bytes(data)
    images, indices = run(open_catalog(out), steps=8)
    assert 5 not in indices
    assert torch.equal(indices % 2, (torch.arange(BATCH) >= BATCH // 2).long().expand_as(indices))
    changed = (images != good).flatten(2).any(2)
    assert 4 <= changed.sum() <= 5  # 48 samples of 11 images
    nodes = [on_node(out, tmp_path / f"node{part}", [part]) for part in range(2)]
    for ranks in (2, 4):
        shares = [
            run(open_catalog(nodes[number * 2 // ranks]), number, ranks, steps=8)
            for number in range(ranks)
        ]
        assert torch.equal(torch.cat([share[0] for share in shares], dim=1), images)


def test_missing_and_short_shards_are_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_module.socket, "gethostname", lambda: "node-b")
    node = on_node(in_parts(source, tmp_path / "out", 3), tmp_path / "node", [0, 2])
    catalog = open_catalog(node)
    for number in (0, 1, 4, 5):
        check_shards(catalog, number, 6)
    with pytest.raises(DataError) as caught:
        check_shards(catalog, 3, 6)
    for said in (
        f"{node}/part-001/shard-00000.tar cannot be read (No such file or directory) on node-b",
        "of the 3 parts this rank needs part 1 (read by ranks 2 to 3)",
        "copy the missing parts here, or start the nodes in the order of their parts: this "
        "node has part 0 (read by ranks 0 to 1), part 2 (read by ranks 4 to 5)",
    ):
        assert said in str(caught.value)
    with pytest.raises(DataError, match="a multiple of 3 ranks, which read one part each"):
        check_shards(catalog, 1, 2)
    with pytest.raises(DataError, match="part-001"):
        prepare(node, tmp_path / "again", Conversion(SIZE))
    shard = node / "part-002" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"part-002.* is cut short \(5,000 bytes instead of"):
        check_shards(catalog, 5, 6)
    alone = in_parts(source, tmp_path / "alone", 1)
    (alone / "shard-00000.tar").unlink()
    with pytest.raises(DataError, match="copy it here, or prepare the set again"):
        check_shards(open_catalog(alone))


def far(config: TrainConfig, fakes: int) -> TrainConfig:
    return replace(config, far=replace(config.far, far_fakes=fakes))


def test_batches_that_the_parts_do_not_divide_are_refused_with_a_remedy() -> None:
    config = replace(TrainConfig(), batch_size=32)
    config = replace(config, objective=replace(config.objective, g_objective=1))
    relativistic = with_fields(config, objective="relativistic")
    check_parts(config, 16, 4)
    check_parts(far(config, 8), 12, 4)
    check_parts(far(relativistic, 8), 8, 4)
    with pytest.raises(ConfigError, match=r"the 5 parts.*--batch-size 40, or prepare"):
        check_parts(config, 5, 8)
    with pytest.raises(ConfigError, match=r"32 less --far-fakes=8 .* 16 parts.*--batch-size 40"):
        check_parts(far(config, 8), 16, 4)
    # Its G sees whole batches of real images too, and no batch size fits both.
    with pytest.raises(ConfigError, match="use a multiple of 12 as --far-fakes"):
        check_parts(far(relativistic, 8), 12, 4)


def read_on_a_node(folders: list[str]) -> tuple[torch.Tensor, list[tuple[int, ...]], torch.Tensor]:
    """The images that a rank reads from its folder: for training, as references, and to show."""
    config = TrainConfig()
    data = replace(
        config.data, data=folders[rank()], resolution=SIZE, decode_threads=1, decoder="threads"
    )
    config = replace(config, data=data, num_samples=5)
    catalog = on_all_ranks(lambda: open_data(config), failure=ConfigError)
    check_same_images(catalog)
    images, _ = run(catalog, rank(), world_size())
    seen = []
    for count in (NUM_IMAGES, 9):
        real = RealImages(catalog, data, 5)
        for pictures, index, _ in real.batches(count):
            sums = [zlib.crc32(picture.numpy().tobytes()) for picture in pictures]
            seen += zip([count] * len(index), index.tolist(), sums, strict=True)
    shown = _shown_reals(cast(Run, SimpleNamespace(config=config, catalog=catalog)))[0]
    assert catalog.num_bad_images == 0
    return images, seen, shown


def why_not(folders: list[str]) -> str:
    """The error that a rank ends with."""
    with pytest.raises(ConfigError) as caught:
        read_on_a_node(folders)
    return str(caught.value)


@pytest.mark.slow
def test_nodes_with_a_part_each_read_what_one_with_everything_does(
    source: Path, tmp_path: Path
) -> None:
    whole = in_parts(source, tmp_path / "out", 2)
    nodes = [str(on_node(whole, tmp_path / f"node{part}", [part])) for part in range(2)]
    images, seen, shown = read_on_a_node([str(whole)])
    for count in (NUM_IMAGES, 9):
        some = [(index, checksum) for number, index, checksum in seen if number == count]
        assert sorted(index for index, _ in some) == list(range(count))
        assert len({checksum for _, checksum in some}) == count
    shares = run_on_ranks(2, read_on_a_node, nodes)
    assert torch.equal(torch.cat([share[0] for share in shares], dim=1), images)
    assert sorted(shares[0][1] + shares[1][1]) == sorted(seen)
    assert torch.equal(shares[0][2], shown)

    first, second = run_on_ranks(2, why_not, nodes[::-1])
    assert first == second
    for part in range(2):
        assert f"rank {part}: {nodes[1 - part]}/part-00{part}/shard-00000.tar cannot be" in first
    other = in_parts(write_folder(tmp_path / "in", image_files(8)), tmp_path / "other", 2)
    first, second = run_on_ranks(2, why_not, [nodes[0], str(other)])
    assert first == second
    assert "rank 1 has opened a different set of images from rank 0" in first
