"""A model as one file that runs without this code: ONNX, TorchScript or torch.export."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from components.attacks.gradients import untouched

_BATCHES = (2, 5)  # traced with the first, compared on both
_LARGEST_DIFFERENCE = 1e-4  # of the largest logit
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

_Run = Callable[[Tensor], Tensor]


class ExportFailed(RuntimeError):
    """A model that cannot be written in a form, or a file that does not give its logits."""


def export_model(
    model: nn.Module, image_shape: Sequence[int], target: Path, *, form: str = ""
) -> float:
    """Write a model from pixels in [0, 1] to logits into a file that takes batches of any size.

    What it was trained behind stays in it: normalisation and defences.

    Args:
        model: on the CPU; left as it was.
        image_shape: channels, height, width of the images.
        target: the file.
        form: an entry of FORMS; empty goes by the end of the file's name.

    Returns:
        The largest difference between a logit of the model and of the file as it was read back, on
        images of random pixels.

    Raises:
        ValueError: there is no such form, packages for it are missing, or the model takes no such
            images, or draws at random, which no file could be compared with.
        ExportFailed: torch cannot write the model in this form, or the file gives other logits.
    """
    form = form or _form_of(target)
    if form not in FORMS:
        raise ValueError(f"format must be one of {sorted(FORMS)}, got {form!r}")
    _, write = FORMS[form]
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(size, *image_shape, generator=generator) for size in _BATCHES]
    with untouched(model), torch.no_grad(), torch.random.fork_rng():
        try:
            expected = [model(images) for images in batches]
        except RuntimeError as error:
            raise ValueError(
                f"the model takes no images of {tuple(image_shape)}: {error}"
            ) from error
        if not torch.equal(model(batches[0]), expected[0]):
            raise ValueError(
                "the model draws at random when it classifies, so that no file could be held "
                "against it; export one without such defences"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters about themselves
            try:
                run = write(model, batches[0], target)
                found = [run(images) for images in batches]
            except (AssertionError, RuntimeError) as error:  # torch's ways to say what it cannot
                target.unlink(missing_ok=True)
                reason = str(error).strip().partition("\n")[0].partition(". ")[0]
                raise ExportFailed(f"torch cannot write this model as {form}: {reason}") from error
    pairs = list(zip(found, expected, strict=True))
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    allowed = _LARGEST_DIFFERENCE * max(float(logits.abs().max()) for logits in expected)
    if not difference <= allowed:
        target.unlink()
        raise ExportFailed(
            f"logits of the file must be within {allowed:g} of the model's, got {difference:g}"
        )
    return difference


def _form_of(target: Path) -> str:
    """Tell the form by the end of the file's name."""
    for form, (ending, _) in FORMS.items():
        if target.suffix == ending:
            return form
    endings = ", ".join(ending for ending, _ in FORMS.values())
    raise ValueError(f"the file's name must end in {endings}, or the format be named; got {target}")


def _write_torchscript(model: nn.Module, images: Tensor, target: Path) -> _Run:
    torch.jit.trace(model, images).save(str(target))
    return torch.jit.load(str(target))


def _write_program(model: nn.Module, images: Tensor, target: Path) -> _Run:
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images,), dynamic_shapes=sizes, strict=False)
    torch.export.save(program, target)
    return torch.export.load(target).module()


def _write_onnx(model: nn.Module, images: Tensor, target: Path) -> _Run:
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"ONNX needs the packages {', '.join(missing)}, which come with the extra onnx: "
            "uv run --extra onnx bartizan export ..."
        )
    torch.onnx.export(
        model,
        (images,),
        str(target),
        dynamo=True,
        external_data=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    runtime = importlib.import_module("onnxruntime")  # the extra may not be installed
    session = runtime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])


FORMS: dict[str, tuple[str, Callable[[nn.Module, Tensor, Path], _Run]]] = {
    "onnx": (".onnx", _write_onnx),
    "torch_export": (".pt2", _write_program),
    "torchscript": (".pt", _write_torchscript),
}
"""By name: how its files' names end, and what writes one and reads it back."""
