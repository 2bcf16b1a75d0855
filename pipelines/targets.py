"""From the words of a command line to a model to attack and the images to attack it on."""

import hashlib
import os
import runpy
import sys
import tempfile
from pathlib import Path

from torch import nn

from components.data.index import INDEX
from components.data.loose import read_loose
from components.evaluation.evaluate import read_candidate, read_dataset
from components.evaluation.summarise import Candidate, Dataset
from components.models.checkpoint import WORDS
from components.tensors import best_device
from components.tracking import URI

FORMS = "a checkpoint folder, models:/name@alias or file.py:function"


def load_candidate(word: str, tracking_uri: str) -> Candidate:
    """Load the model that a word stands for.

    Args:
        word: a checkpoint folder; ``models:/name@alias`` or ``models:/name/version`` in the model
            registry; or ``file.py:function``, whose function takes nothing and returns any module
            from pixels in [0, 1] to logits.
        tracking_uri: of the registry.

    Raises:
        ValueError: there is no such model, or it cannot be loaded.
    """
    if word.startswith("models:/"):
        return _registered(word, tracking_uri)
    if (Path(word) / WORDS).is_file():
        return read_candidate(Path(word))
    file, colon, function = word.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_function(word, Path(file), function)
    raise ValueError(f"a model is {FORMS}, and {word!r} is none of them")


def load_dataset(folder: Path, *, grey: bool, image_size: int, num_images: int) -> Dataset:
    """Load prepared shards, or ``FOLDER/CLASS/*.png|jpg``, or ``FOLDER/test/CLASS/*.png|jpg``.

    Raises:
        ValueError: the folder holds nothing of that kind.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; --data takes shards or a folder per class")
    if (folder / INDEX).is_file():
        if grey or image_size:
            raise ValueError(
                "prepared shards are taken as they are, without --grey or --image-size"
            )
        return read_dataset(folder, num_images=num_images)
    images = folder / "test" if (folder / "test").is_dir() else folder
    split, classes = read_loose(images, grey=grey, image_size=image_size, num_images=num_images)
    rows = [f"{id} {label}" for id, label in zip(split.ids, split.labels.tolist(), strict=True)]
    return Dataset(
        images=(split.images.float() / 255).to(best_device()),
        labels=split.labels.to(best_device()),
        ids=split.ids,
        facts={
            "fingerprint": hashlib.sha256("\n".join(rows).encode()).hexdigest(),
            "split": str(images),
            "images": hashlib.sha256("".join(split.ids).encode()).hexdigest(),
            "classes": classes,
        },
    )


def _registered(word: str, tracking_uri: str) -> Candidate:
    store = Path(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and not store.is_file():
        raise ValueError(f"{word} cannot be fetched: there is no registry {store}")
    os.environ[URI] = tracking_uri
    # Here, because importing mlflow takes seconds.
    from components.registry.models import fetch_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        try:
            found = read_candidate(fetch_checkpoint(word, Path(folder)))
        except Exception as error:  # whatever a registry may answer
            raise ValueError(f"{word} cannot be fetched from {tracking_uri}: {error}") from error
    return Candidate(
        model=found.model,
        title=word,
        facts={**found.facts, "registered": word},
        size_bytes=found.size_bytes,
    )


def _from_function(word: str, file: Path, function: str) -> Candidate:
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    try:
        sys.path.insert(0, str(file.parent.resolve()))  # as `python file.py` would
        names = runpy.run_path(str(file))
        if not callable(names.get(function)):
            raise ValueError(f"it has no function {function}")
        model = names[function]()
    except Exception as error:  # whatever a user's own file may raise
        raise ValueError(f"{word}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{word} must return a torch.nn.Module, got {type(model).__name__}")
    return Candidate(model=model.to(best_device()), title=word, facts={"source": word})
