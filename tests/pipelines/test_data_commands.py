"""bartizan data: shards, predictions, and what is wrong said in one line."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.data.index import read_index
from pipelines.__main__ import app

MODEL = """
import torch
class Brightest(torch.nn.Module):
    def forward(self, images):
        means = images.mean((2, 3))
        return torch.cat([means, 1 - means.sum(1, keepdim=True)], 1)
def model():
    return Brightest()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bartizan(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


def picture(path, colour, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_source_becomes_shards(place):
    result = bartizan("prepare", "digits", "-o", "shards", "--set", "image_size=12")
    assert result.exit_code == 0, result.output
    assert "test images          500" in result.output
    assert read_index(place / "shards").image_shape == (1, 12, 12)
    assert (place / "shards" / "card.html").is_file()


def test_the_target_recognises_an_unchanged_source(place):
    words = ("prepare", "digits", "--set", "target=kept", "-o")
    assert bartizan(*words, "first").exit_code == 0
    again = bartizan(*words, "second")
    assert "unchanged" in again.output
    assert read_index(place / "first").fingerprint == read_index(place / "second").fingerprint


def test_repeated_images_may_be_kept(place):
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            for name, colour in (("a", "red"), ("b", "blue")):
                shade = (number, 0, 255) if name == "b" else (255, number, 0)
                repeated = colour if split == "test" else shade
                picture(place / "set" / split / name / f"{number}.png", repeated)
    for keep, tested in (("false", 2), ("true", 6)):
        words = ("--set", f"keep_repeated={keep}", "-o", keep)
        result = bartizan("prepare", "folder", "set", *words)
        assert result.exit_code == 0, result.output
        assert read_index(place / keep).splits["test"].num_images == tested


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prepare", "mnits"), "unknown name 'mnits', expected one of"),
        (("prepare", "folder"), "needs the option 'root'"),
        (("prepare", "folder", "missing"), "missing must be a folder"),
        (("prepare", "digits", "--set", "sead=1"), "unknown field of data 'sead'"),
        (("submission", "no/model", "images"), "none of them"),
        (("submission", "model.py:model", "images"), "give --image-size"),
        (("submission", "model.py:model", "images", "--image-size", "8"), "is missing"),
        (("submission", "model.py:model", "named", "--image-size", "8"), "such as 12.png"),
        (("submission", "model.py:model", "twice", "--image-size", "8"), "the same number"),
        (("submission", "model.py:model", "broken", "--image-size", "8"), "broken/1.png"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, message, place):
    (place / "model.py").write_text(MODEL)
    picture(place / "named" / "one.png", "red")
    picture(place / "twice" / "1.png", "red")
    picture(place / "twice" / "01.png", "red")
    (place / "broken").mkdir()
    (place / "broken" / "1.png").write_bytes(b"no image")
    result = bartizan(*words)
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_predictions_by_rising_number(place):
    (place / "model.py").write_text(MODEL)
    colours = {2: ("blue", 2), 10: ("red", 0), 0: ("black", 3), 130: ("lime", 1)}
    for number, (colour, _) in colours.items():
        picture(place / "images" / f"{number}.png", colour)
    words = ("model.py:model", "images", "--image-size", 8, "-o", "out/answers.json")
    result = bartizan("submission", *words)
    assert result.exit_code == 0, result.output
    assert json.loads((place / "out" / "answers.json").read_text()) == [
        {"image_id": number, "category_id": colours[number][1]} for number in sorted(colours)
    ]


def test_the_middle_is_cut_out_where_it_is_asked_for(place):
    """Squashed, the bright sides decide; of the middle, nothing but the dark is left."""
    (place / "model.py").write_text(MODEL)
    pixels = np.zeros((8, 32, 3), np.uint8)
    pixels[:, :11, 0] = pixels[:, 21:, 0] = 255
    (place / "images").mkdir()
    Image.fromarray(pixels).save(place / "images" / "7.png")
    answers = []
    for more in ((), ("--shorter-side", 8)):
        result = bartizan(
            "submission", "model.py:model", "images", "--image-size", 8, *more, "-o", "a.json"
        )
        assert result.exit_code == 0, result.output
        answers.append(json.loads((place / "a.json").read_text())[0]["category_id"])
    assert answers == [0, 3]
