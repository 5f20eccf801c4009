"""prepare: stored and rejected images, and that neither workers nor kills change a byte."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from realness.data_pipeline import DataError, check_images, open_catalog
from realness.data_pipeline.prepare import convert
from realness.data_pipeline.prepare import prepare as pack
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.launch.prepare import main
from tests.helpers import ROOT
from tests.helpers.data_images import encoded, image_files, picture, write_folder, write_zip
from tests.helpers.streams import stream_of


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def rejects(folder: Path) -> dict[str, str]:
    with (folder / "rejects.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def photographs(root: Path, count: int = 12) -> Path:
    """Files of several formats and shapes, all usable."""
    files = {}
    for seed in range(count):
        image = picture(seed, (40 + seed, 50))
        kind, suffix = [("JPEG", "jpg"), ("PNG", "png"), ("BMP", "bmp"), ("WEBP", "webp")][seed % 4]
        files[f"{seed % 2}/{seed:03d}.{suffix}"] = encoded(image, kind)
    return write_folder(root, files)


def stored_images(folder: Path) -> list[np.ndarray]:
    """Pixels [H, W, 3] as Python's own tarfile and Pillow read them."""
    images = []
    for shard in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                images.append(np.asarray(Image.open(file)))
    return images


def test_png_is_the_lanczos_shrunk_centre(tmp_path: Path) -> None:
    source = photographs(tmp_path / "in")
    report = prepare(source, tmp_path / "out", Conversion(32), num_workers=2)
    assert (report.num_images, report.num_rejected) == (12, 0)
    names = sorted(str(p.relative_to(source)) for p in source.rglob("*.*"))
    for name, found in zip(names, stored_images(tmp_path / "out"), strict=True):
        image = Image.open(source / name).convert("RGB")
        side, (width, height) = min(image.size), image.size
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        expected = np.asarray(square.resize((32, 32), Image.Resampling.LANCZOS))
        assert np.array_equal(found, expected)


def test_box_filter_averages(tmp_path: Path) -> None:
    image = picture(3, 64)
    write_folder(tmp_path / "in", {"a.png": encoded(image, "PNG")})
    prepare(tmp_path / "in", tmp_path / "out", Conversion(32, resize="box"))
    pixels = np.asarray(image).astype(float)
    means = pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    # Pillow rounds to whole levels twice, after each of its two passes.
    assert np.abs(stored_images(tmp_path / "out")[0] - means).max() <= 1


def test_images_of_the_right_size_pass_unchanged(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(5, image_format="PNG"))
    prepare(tmp_path / "in", tmp_path / "out", Conversion(32, crop="none"))
    for seed, found in enumerate(stored_images(tmp_path / "out")):
        name = sorted(image_files(5))[seed]
        assert np.array_equal(found, np.asarray(picture(int(name[5:10]))))


@pytest.mark.parametrize("image_format", ["png", "jpeg", "raw"])
def test_prepared_set_trains_and_keeps_labels(tmp_path: Path, image_format: str) -> None:
    files = image_files(9, 40, "PNG")
    labels: list[list[object]] = [[name, i % 3] for i, name in enumerate(files)]
    source = write_zip(tmp_path / "set.zip", files, labels=labels)
    prepare(source, tmp_path / "out", Conversion(32, format=image_format))  # type: ignore[arg-type]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["lossless"] is (image_format != "jpeg")
    catalog = open_catalog(tmp_path / "out")
    assert catalog.digest == manifest["digest"]
    assert {catalog.name(i): catalog.label(i) for i in range(9)} == {str(n): c for n, c in labels}
    check_images(catalog, 32)
    with pytest.raises(DataError, match="resolution 32, training needs resolution=64"):
        check_images(catalog, 64)
    with stream_of(
        catalog, resolution=32, global_batch=9, seed=1, purpose=1, mirror=False
    ) as stream:
        images = next(stream)
        for image, index in zip(images, stream.indices.tolist(), strict=True):
            original = Image.open(io.BytesIO(files[catalog.name(index)]))
            expected = np.asarray(original.resize((32, 32), Image.Resampling.LANCZOS))
            difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected)
            assert difference.max() <= (24 if image_format == "jpeg" else 0)


def test_every_refusal_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "MAX_PIXELS", 10_000)
    good = encoded(picture(1), "PNG")
    wrong_crc = bytearray(good)
    wrong_crc[good.index(b"IDAT") + 20] ^= 1
    scan_damaged = bytearray(encoded(picture(2, 48)))
    scan_damaged[-150:-20] = bytes(130)
    see_through = picture(1).convert("RGBA")
    see_through.putalpha(100)
    frames = [picture(seed).convert("P") for seed in range(3)]
    files = {
        "good.png": good,
        "cut.jpg": encoded(picture(1))[:-100],
        "cut.png": good[:-50],
        "crc.png": bytes(wrong_crc),
        "scan.jpg": bytes(scan_damaged),
        "empty.jpg": b"",
        "page.jpg": b"<html></html>",
        "small.png": encoded(picture(1, 31), "PNG"),
        "huge.png": encoded(picture(1, 101), "PNG"),
        "clear.png": encoded(see_through, "PNG"),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "float.tif": encoded(picture(1).convert("F"), "TIFF"),
    }
    write_folder(tmp_path / "in", files)
    (tmp_path / "in" / "link.jpg").symlink_to("/etc/passwd")
    report = prepare(tmp_path / "in", tmp_path / "out", Conversion(32))
    assert report.num_images == 1
    assert report.num_rejected == len(files)
    reasons = rejects(tmp_path / "out")
    expected = {
        "link.jpg": "symbolic link", "cut.jpg": "does not decode", "cut.png": "truncated PNG",
        "crc.png": "wrong CRC", "scan.jpg": "does not decode", "empty.jpg": "empty",
        "page.jpg": "is text or HTML",
        "small.png": "smaller than 32x32", "huge.png": "more than the",
        "clear.png": "transparent", "moving.gif": "3 frames", "float.tif": "floating-point",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for name, part in expected.items():
        assert part in reasons[name], name


def test_colour_kinds_come_out_as_rgb(tmp_path: Path) -> None:
    image = picture(4)
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = (np.asarray(image.convert("L")).astype(np.uint16) * 257).astype(np.uint16)
    opaque = image.convert("RGBA")
    write_folder(
        tmp_path / "in",
        {
            "a_grey.png": encoded(image.convert("L"), "PNG"),
            "b_opaque.png": encoded(opaque, "PNG"),
            "c_palette.gif": encoded(image.convert("P"), "GIF"),
            "d_cmyk.tif": encoded(image.convert("CMYK"), "TIFF"),
            "e_sixteen.png": encoded(Image.fromarray(sixteen), "PNG"),
            "f_turned.png": encoded(image, "PNG", exif=exif),
            "g_scan.pgm": encoded(image.convert("L"), "PPM"),
        },
    )
    assert prepare(tmp_path / "in", tmp_path / "out", Conversion(32)).num_rejected == 0
    grey, opaque_found, palette, cmyk, sixteen_found, turned, scan = stored_images(tmp_path / "out")
    expected_grey = np.asarray(image.convert("L").convert("RGB"))
    assert np.array_equal(grey, expected_grey)
    assert np.array_equal(scan, expected_grey)
    assert np.array_equal(sixteen_found, expected_grey)
    assert np.array_equal(opaque_found, np.asarray(image))
    assert np.array_equal(palette, np.asarray(image.convert("P").convert("RGB")))
    assert np.array_equal(cmyk, np.asarray(image))
    # Orientation 6: the camera was rotated, so the stored rows start at the right-hand side.
    assert np.array_equal(turned, np.rot90(np.asarray(image), -1))


def test_crop_none_and_upscale(tmp_path: Path) -> None:
    write_folder(
        tmp_path / "in",
        {"wide.png": encoded(picture(1, (40, 32)), "PNG"), "small.png": encoded(picture(2), "PNG")},
    )
    prepare(tmp_path / "in", tmp_path / "none", Conversion(32, crop="none"))
    assert rejects(tmp_path / "none") == {"wide.png": "is 40x32, not square, and crop is 'none'"}
    report = prepare(tmp_path / "in", tmp_path / "up", Conversion(64, upscale=True))
    assert report.num_images == 2
    assert {image.shape for image in stored_images(tmp_path / "up")} == {(64, 64, 3)}


def big_source(root: Path, count: int = 60) -> Path:
    """Noise, which no codec can compress: several shards of 1 MiB at resolution 128."""
    rng = np.random.default_rng(0)
    files = {}
    for i in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
        files[f"{i:04d}.png"] = encoded(noise, "PNG", compress_level=1)
    return write_folder(root, files | {"0007x.jpg": b"bad", "0033x.jpg": b""})


def test_result_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    source = big_source(tmp_path / "in")
    for workers in (1, 2, 5):
        prepare(source, tmp_path / str(workers), Conversion(128), num_workers=workers, shard_mib=1)
    one = tree(tmp_path / "1")
    assert sum(name.endswith(".tar") for name in one) == 3
    assert one == tree(tmp_path / "2") == tree(tmp_path / "5")


def test_index_points_at_the_stored_bytes(tmp_path: Path) -> None:
    prepare(big_source(tmp_path / "in"), tmp_path / "out", Conversion(128), shard_mib=1)
    catalog = open_catalog(tmp_path / "out")
    for i, found in enumerate(stored_images(tmp_path / "out")):
        (tmp_path / "x.png").write_bytes(catalog.read(i))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), found)
        original = np.asarray(Image.open(tmp_path / "in" / catalog.name(i)))
        assert np.array_equal(found, original)


def test_jpeg_keeps_its_colours_at_full_resolution_and_is_named_lossy(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(2, image_format="PNG"))
    stored = []
    for quality in (60, 95):
        out = tmp_path / str(quality)
        prepare(tmp_path / "in", out, Conversion(32, format="jpeg", quality=quality))
        manifest = json.loads((out / "manifest.json").read_text())
        assert (manifest["lossless"], manifest["quality"]) == (False, quality)
        stored.append(open_catalog(out).read(0))
        assert simplejpeg.decode_jpeg_header(stored[-1])[3] == "444"
    assert len(stored[0]) < len(stored[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, number: signal.Signals) -> None:
    source = big_source(tmp_path / "in", 400)
    command = [
        sys.executable, str(ROOT / "launch" / "prepare.py"), str(source), str(tmp_path / "out"),
        "--resolution", "128", "--shard-mib", "1", "--num-workers", "1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    work = tmp_path / "out.partial"
    deadline = time.monotonic() + 60
    while not (work / "shard-00001.tar.json").exists():
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again" in said
        assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "come from an interrupted run" in again.stdout
    prepare(source, tmp_path / "straight", Conversion(128), shard_mib=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")
    assert not work.exists()


def test_complete_set_is_left_alone_and_another_is_not_overwritten(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(4))
    prepare(tmp_path / "in", tmp_path / "out", Conversion(32))
    before = tree(tmp_path / "out")
    assert prepare(tmp_path / "in", tmp_path / "out", Conversion(32)).was_complete
    with pytest.raises(DataError, match="resolution is 32 there, 16 here"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(16))
    assert tree(tmp_path / "out") == before
    with pytest.raises(DataError, match="is not a prepared set"):
        prepare(tmp_path / "in", tmp_path / "in", Conversion(16))


def test_begun_set_refuses_other_settings_and_a_second_run(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(4))
    work = tmp_path / "out.partial"

    def interrupted(done: int, total: int, rejected: int) -> None:
        with pytest.raises(DataError, match="another process is preparing"):
            prepare(tmp_path / "in", tmp_path / "out", Conversion(32))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32), progress=interrupted)
    assert work.exists()
    with pytest.raises(DataError, match="resolution was 32, is 16"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(16))
    assert prepare(tmp_path / "in", tmp_path / "out", Conversion(32)).num_images == 4
    assert not work.exists()


def test_nothing_usable_and_bad_settings(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", {"a.jpg": b"text", "b.jpg": b""})
    with pytest.raises(DataError, match=r"none of the 2 images.*a\.jpg"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    with pytest.raises(ValueError, match="resolution=0"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(0))
    with pytest.raises(ValueError, match="quality=101"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32, quality=101))
    with pytest.raises(ValueError, match="crop_size=0 must be at least 1 pixel"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32, crop_size=0))
    with pytest.raises(ValueError, match="crop_size=31 is smaller than resolution=32; use a"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32, crop_size=31))
    with pytest.raises(ValueError, match="crop_size=64 does not combine with crop='none'"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32, "none", crop_size=64))
    with pytest.raises(ValueError, match="crop='left'"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32, crop="left"))  # type: ignore[arg-type]


def test_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "in", image_files(4))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pack.ShardWriter, "add", full)
    with pytest.raises(DataError, match=r"disk that holds .* is full.*run the same command again"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(32))


def test_command_line_errors_and_help(tmp_path: Path) -> None:
    script = str(ROOT / "launch" / "prepare.py")
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert "--resolution" in shown.stdout
    missing = subprocess.run(
        [sys.executable, script, str(tmp_path / "no"), str(tmp_path / "out"), "--resolution", "32"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert missing.returncode == 2
    assert "does not exist" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_places_that_cannot_be_written_and_no_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(write_folder(tmp_path / "in", image_files(2)))
    (tmp_path / "file").write_bytes(b"")
    assert main([source, str(tmp_path / "file" / "out"), "--resolution", "32"]) == 2
    assert "Not a directory" in capsys.readouterr().err
    arguments = [source, str(tmp_path / "out"), "--resolution", "32", "--num-workers", "0"]
    assert main(arguments) == 2
    assert "num_workers=0" in capsys.readouterr().err
