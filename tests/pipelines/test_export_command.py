"""The command that writes a model into a file."""

import pytest
import torch
import typer
from typer.testing import CliRunner

from components.models.build import ModelSpec, build_model
from components.models.checkpoint import save_checkpoint
from pipelines.export_command import export

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.load:FutureWarning")  # it still reads

FUNCTION = """
import torch
def small():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in a folder with a checkpoint and a file with a function."""
    app = typer.Typer()
    app.command()(export)
    spec = ModelSpec(
        backbone={"name": "lenet5", "widths": [2, 3, 48, 4]},
        classes=("no", "yes"),
        image_shape=(1, 28, 28),
        mean=(0.5,),
        deviation=(0.25,),
    )
    save_checkpoint(build_model(spec), tmp_path / "lenet", provenance={"stage": "prune"})
    (tmp_path / "mine.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_a_checkpoint_becomes_a_file(run):
    result = run("lenet", "-o", "lenet.pt")
    assert result.exit_code == 0 and "lenet.pt written" in result.stdout
    assert torch.jit.load("lenet.pt")(torch.rand(3, 1, 28, 28)).shape == (3, 2)


def test_a_function_s_model_needs_the_shape_of_its_images(run):
    result = run("mine.py:small", "-o", "small.bin", "--format", "torchscript")
    assert result.exit_code == 2 and "--image-shape" in result.stderr
    words = ("--format", "torchscript", "--image-shape", "3,2,2")
    assert run("mine.py:small", "-o", "small.bin", *words).exit_code == 0
    assert torch.jit.load("small.bin")(torch.rand(3, 3, 2, 2)).shape == (3, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lenet", "-o", "lenet.txt"), "must end in .onnx, .pt2, .pt"),
        (("lenet", "-o", "there/lenet.pt"), "there is no folder there"),
        (("lenet", "-o", "lenet.pt", "--image-shape", "3,32"), "three numbers such as 3,32,32"),
        (("lenet", "-o", "lenet.pt", "--image-shape", "1,28,28"), "goes with a function's model"),
        (("nothing", "-o", "lenet.pt"), "'nothing' is none of them"),
    ],
)
def test_wrong_usage_is_one_line(run, words, message):
    result = run(*words)
    assert result.exit_code == 2 and message in result.stderr
    assert result.stderr.count("\n") == 1
