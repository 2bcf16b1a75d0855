"""A file gives the model's logits without this code, or none is left."""

import importlib.util

import pytest
import torch
from torch import nn

from components.models.build import ModelSpec, build_model
from components.models.export import FORMS, ExportFailed, export_model

GATES = ("layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.shortcut.0")
UNITS = {**dict.fromkeys(GATES, 3), "layer3.0.conv2": 5, "linear": 7}
# What is tried, small, and the shape of its images.
MODELS = {
    "lenet5": ({"name": "lenet5", "widths": [3, 4, 50, 5]}, (1, 28, 28)),
    "pruned": ({"name": "wide_resnet", "depth": 10, "widen_factor": 1, "units": UNITS}, (3, 8, 8)),
    "decoded": ({"name": "se_resnet", "widths": [2, 3, 4, 5]}, (3, 32, 32)),
}


def read(form, path):
    """Give what the file computes, read without what wrote it."""
    if form == "torchscript":
        return torch.jit.load(path)
    if form == "torch_export":
        return torch.export.load(path).module()
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return lambda images: torch.tensor(session.run(None, {"images": images.numpy()})[0])


def build(case, **fields):
    choice, shape = MODELS[case]
    spec = ModelSpec(
        backbone=choice,
        classes=tuple("01234"),
        image_shape=shape,
        mean=(0.5,) * shape[0],
        deviation=(0.25,) * shape[0],
        **fields,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(spec).train(), shape


@pytest.mark.filterwarnings("ignore:.torch.jit.load:FutureWarning")  # it still reads
@pytest.mark.parametrize(
    ("case", "form"),
    [*(("pruned", form) for form in FORMS), ("lenet5", "torchscript"), ("decoded", "torch_export")],
)
def test_the_file_says_what_the_model_says(case, form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    model, shape = build(case)
    target = tmp_path / f"model{FORMS[form][0]}"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert export_model(model, shape, target) < 1e-4
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        found = read(form, target)(torch.full((3, *shape), 0.5))
        expected = model.eval()(torch.full((1, *shape), 0.5))
    assert torch.allclose(found, expected.expand(3, -1), atol=1e-5)


def test_missing_packages_are_named(tmp_path):
    if importlib.util.find_spec("onnxruntime"):
        pytest.skip("the extra onnx is installed")
    model, shape = build("lenet5")
    with pytest.raises(
        ValueError, match=r"needs the packages onnx.* which come with the extra onnx"
    ):
        export_model(model, shape, tmp_path / "model.onnx")


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(tmp_path):
    model, shape = build("lenet5")
    target = tmp_path / "model.pt"
    with pytest.raises(ValueError, match=r"must end in .onnx, .pt2, .pt, or the format be named"):
        export_model(model, shape, tmp_path / "model.bin")
    with pytest.raises(ValueError, match=r"format must be one of \['onnx', .*got 'keras'"):
        export_model(model, shape, target, form="keras")
    with pytest.raises(ValueError, match=r"the model takes no images of \(1, 3, 3\)"):
        export_model(Counted(), (1, 3, 3), target)
    random, _ = build("lenet5", defences=({"name": "random_resize_pad"},))
    with pytest.raises(ValueError, match="the model draws at random when it classifies"):
        export_model(random, shape, target)
    coarse, _ = build("lenet5", defences=({"name": "bit_depth"},))
    with pytest.raises(ExportFailed, match="torch cannot write this model as torchscript"):
        export_model(coarse, shape, target)
    assert not any(tmp_path.iterdir())


class Counted(nn.Module):
    """Gives the size of the batch, which a trace takes for a constant."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 3)

    def forward(self, images):
        return self.dense(images.flatten(1)) * float(len(images))


def test_a_file_that_gives_other_logits_is_removed(tmp_path):
    with pytest.raises(ExportFailed, match="logits of the file must be within"):
        export_model(Counted(), (1, 2, 2), tmp_path / "model.pt")
    assert not any(tmp_path.iterdir())
