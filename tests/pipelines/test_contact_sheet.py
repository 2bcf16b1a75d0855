"""The contact sheet: as many pictures as asked for, of the right operations, the same each time."""

import pytest
import torch
from PIL import Image, ImageChops
from typer.testing import CliRunner

from components.augmentations.operations import OPERATIONS
from pipelines.__main__ import app
from pipelines.contact_sheet import draw_contact_sheet, draw_landscape, read_picture


def bartizan(*words):
    return CliRunner().invoke(app, ["data", "augmentations", *map(str, words)])


def find(sheet, picture, step=2):
    """Count the places of a sheet where the picture's roof stands exactly."""
    mark = picture.crop((66, 56, 82, 72)).convert("RGB")
    pixels, wanted = (
        torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8).view(*p.size[::-1], 3)
        for p in (sheet, mark)
    )
    windows = pixels.unfold(0, 16, step).unfold(1, 16, step)
    return int((windows.permute(0, 1, 3, 4, 2) == wanted).all(4).all(3).all(2).sum())


def test_every_operation_is_drawn(tmp_path):
    result = bartizan("-o", tmp_path / "sheet.png")
    assert result.exit_code == 0 and result.output == f"{tmp_path / 'sheet.png'} written\n"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 5 * 160 and sheet.height > 17 * 160


def test_a_row_holds_five_pictures_as_the_operation_makes_them():
    picture = draw_landscape(160)
    sheet = draw_contact_sheet(picture, {"horizontal_flip": OPERATIONS["horizontal_flip"]})
    assert find(sheet, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 5
    assert find(sheet, picture) == 1


def test_a_row_does_not_depend_on_the_others():
    picture = draw_landscape(160)
    alone = draw_contact_sheet(picture, {"rain": OPERATIONS["rain"]})
    below = draw_contact_sheet(picture, {n: OPERATIONS[n] for n in ("blur", "rain")})
    height = below.height - alone.height
    row = alone.crop((0, 240, alone.width, 380))
    same = below.crop((0, 240 + height, alone.width, 380 + height))
    assert ImageChops.difference(row, same).getbbox() is None
    other = draw_contact_sheet(picture, {"rain": OPERATIONS["rain"]}, seed=1)
    assert ImageChops.difference(alone, other).getbbox()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_any_kind(tmp_path, mode):
    file = tmp_path / "picture.tiff"
    draw_landscape(100).resize((100, 70)).convert(mode).save(file)
    result = bartizan("-o", tmp_path / "sheet.png", "--image", file, "--operations", "mosaic,fog")
    assert result.exit_code == 0
    assert read_picture(file).mode == ("L" if mode in ("L", "1") else "RGB")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "sheet.png", "--operations", "fogg"], "unknown operation 'fogg', expected one of"),
        (["-o", "sheet.png", "--image", "nowhere.png"], "there is no file nowhere.png"),
        (["-o", "sheet.png", "--image", "words.png"], "words.png must be a picture"),
        (["-o", "sheet.xyz", "--operations", "blur"], "sheet.xyz"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.png").write_text("no picture")
    result = bartizan(*words)
    assert result.exit_code == 2 and result.stderr.startswith("bartizan: ")
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "sheet.png").exists()
