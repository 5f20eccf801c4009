"""prepare --crop-size: the centre of the upright original, before it is shrunk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realness.data_pipeline import DataError
from realness.data_pipeline.prepare.convert import Conversion
from realness.data_pipeline.prepare.prepare import prepare
from realness.launch.prepare import main
from tests.data_pipeline.prepare.test_prepare import rejects, stored_images
from tests.helpers.data_images import encoded, image_files, picture, write_folder


@pytest.mark.parametrize("size", [32, 33])
def test_crop_size_takes_the_centre_of_the_original(tmp_path: Path, size: int) -> None:
    """Pixels are those of the centre, of an upright picture of CelebA's shape."""
    image = picture(1, (178 // 2, 218 // 2))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    files = {"a.png": encoded(image, "PNG"), "b.png": encoded(turned, "PNG", exif=exif)}
    write_folder(tmp_path / "in", files | {"c.png": encoded(picture(2, (31, 200)), "PNG")})
    report = prepare(tmp_path / "in", tmp_path / "out", Conversion(size, crop_size=size))
    top, left = (109 - size) // 2, (89 - size) // 2
    expected = np.asarray(image)[top : top + size, left : left + size]
    assert (report.num_images, report.num_rejected) == (2, 1)
    for found in stored_images(tmp_path / "out"):
        assert np.array_equal(found, expected)
    reason = f"is 31x200, smaller than the crop of {size}x{size}"
    assert rejects(tmp_path / "out") == {"c.png": reason}


def test_crop_size_then_shrinks(tmp_path: Path) -> None:
    image = picture(3, (90, 71))
    write_folder(tmp_path / "in", {"a.png": encoded(image, "PNG")})
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--resolution", "16"]
    assert main([*arguments, "--crop-size", "64", "--resize", "box"]) == 0
    centre = np.asarray(image)[3 : 3 + 64, 13 : 13 + 64].astype(float)
    means = centre.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    # Pillow rounds to whole levels twice, after each of its two passes.
    assert np.abs(stored_images(tmp_path / "out")[0] - means).max() <= 1
    # The set is another one without the flag.
    with pytest.raises(DataError, match="crop_size is 64 there, None here"):
        prepare(tmp_path / "in", tmp_path / "out", Conversion(16, resize="box"))


def test_a_set_from_before_crop_sizes_is_known(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", image_files(3))
    out = prepare(tmp_path / "in", tmp_path / "out", Conversion(32)).out
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["crop_size"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert prepare(tmp_path / "in", out, Conversion(32)).was_complete
