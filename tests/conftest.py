"""Shapes of tensors are enforced, and the linear problem whose robust accuracy is known."""

import importlib.util
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Before torch is loaded: threads that spin while they wait fight with the processes tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several that share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from components.data.config import DataConfig
from components.data.prepare import prepare

# Rooms whose values are tensors. Doors stay out: Kubeflow sends a step's source as it is written.
# So do settings, which check themselves and say more about what is wrong.
NETWORKS = (
    "convnext",
    "lenet",
    "ml_decoder",
    "preact_resnet",
    "resnet",
    "se_resnet",
    "timm_models",
    "vgg",
    "wide_resnet",
)
CHECKED = ("attacks", "defences", "objectives", *(f"models.{name}" for name in NETWORKS))
jaxtyping.install_import_hook(
    [f"components.{room}" for room in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# The same examples every time, and no clock: a test fails because of the code or not at all.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


class LinearProblem(NamedTuple):
    """A linear classifier with images of which it gets 85.75 % right."""

    model: nn.Module
    images: Tensor
    labels: Tensor

    @torch.no_grad()
    def robust_accuracy(self, adversarial: Tensor, model: nn.Module | None = None) -> float:
        """Share of images that are right both clean and attacked."""
        predictions = [(model or self.model)(images) for images in (self.images, adversarial)]
        right = [logits.argmax(1) == self.labels for logits in predictions]
        return float((right[0] & right[1]).double().mean())


@pytest.fixture(scope="session")
def lin400() -> LinearProblem:
    """Four mean images with noise, told apart by the nearest mean."""
    generator = np.random.Generator(np.random.PCG64(0))
    means = generator.uniform(0.4, 0.6, (4, 3, 8, 8))
    labels = np.arange(400) % 4
    images = np.clip(means[labels] + 0.35 * generator.standard_normal((400, 3, 8, 8)), 0, 1)
    weights = torch.tensor(means.reshape(4, -1))
    layer = nn.Linear(192, 4)
    layer.weight.data = weights.float()
    layer.bias.data = (-weights.square().sum(1) / 2).float()
    model = nn.Sequential(nn.Flatten(), layer).eval()
    return LinearProblem(model, torch.tensor(images).float(), torch.tensor(labels))


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Let wrong types through to the function, as they are outside the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def digits_shards(tmp_path_factory) -> Path:
    """The handwritten digits, prepared as the digits recipe does."""
    folder = tmp_path_factory.mktemp("digits")
    prepare(DataConfig(source={"name": "digits"}, image_size=28), folder)
    return folder


class S3Server:
    """A real server whose data outlive it, at the same address after every start."""

    key, secret = "test:tester", "testing"

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        script = Path(__file__).with_name("s3_server.py")
        command = [sys.executable, "-W", "ignore", script, self.folder, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[S3Server]:
    """OpenStack Swift with its S3 interface."""
    if importlib.util.find_spec("swift") is None:
        pytest.skip("needs a real S3 server: install the package swift")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.kill()


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    """The address of an empty bucket, to which the AWS settings of this test lead."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    from components.storage.bucket import connect

    name = f"test-{uuid.uuid4().hex}"
    connect().create_bucket(Bucket=name)
    return f"s3://{name}"
