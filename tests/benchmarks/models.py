"""What is attacked: handwritten digits, a small network trained in two ways, a ResNet-18."""

import gzip
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

MODELS = ("trained", "undefended", "resnet18")
EPSILON = 0.3
TRAINING_VERSION = 1  # part of the file's name; raise it whenever anything below changes


class Normalised(nn.Module):
    """Pixels in, logits out: the normalisation is the first layer, as in Bartizan."""

    def __init__(self, mean: float, deviation: float, network: nn.Module) -> None:
        super().__init__()
        self.mean, self.deviation, self.network = mean, deviation, network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.deviation)


def digit_network() -> nn.Module:
    """Build four convolutions with BatchNorm and two dense layers for 28x28 digits."""

    def convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

    return Normalised(
        0.13,
        0.31,
        nn.Sequential(
            *convolution(1, 16, 1),
            *convolution(16, 32, 2),
            *convolution(32, 32, 1),
            *convolution(32, 64, 2),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        ),
    )


def cifar_resnet18(num_images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Build a ResNet-18 with the stem usual for 32x32 images, and images it takes some time over.

    Weights and pixels are random: it is there for the time of a step in a larger network. The
    labels are what it sees, so that every image has to be attacked.
    """
    torch.manual_seed(0)
    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    model = Normalised(0.45, 0.25, network).eval()
    images = torch.rand(num_images, 3, 32, 32)
    with torch.no_grad():
        labels = torch.cat([model(batch).argmax(1) for batch in images.split(16)])
    return model, images, labels


def digits(mnist: Path | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Give training and test images with labels: MNIST from idx files, or scikit-learn's digits.

    Args:
        mnist: folder of the four files ``*-ubyte.gz``; None takes the 1,797 digits of 8x8 pixels
            that scikit-learn carries, enlarged to 28x28 and split 1,297 to 500.
    """
    if mnist is not None:
        return _mnist(mnist, "train"), _mnist(mnist, "t10k")
    small, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(small).float().view(-1, 1, 8, 8) / 16
    large = functional.interpolate(small, (28, 28), mode="bilinear").clamp(0, 1)
    order = torch.randperm(len(large), generator=torch.Generator().manual_seed(0))
    images, targets = large[order], torch.from_numpy(labels).long()[order]
    return (images[500:], targets[500:]), (images[:500], targets[:500])


def _mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    def entries(kind: str, header: int) -> Tensor:
        data = gzip.decompress((folder / f"{part}-{kind}-ubyte.gz").read_bytes())
        return torch.from_numpy(np.frombuffer(data, np.uint8, offset=header).copy())

    images = entries("images-idx3", 16).view(-1, 1, 28, 28).float() / 255
    return images, entries("labels-idx1", 8).long()


def digit_model(name: str, training: tuple[Tensor, Tensor], source: str, cache: Path) -> nn.Module:
    """Load the digit network of this name, or train it once and keep it.

    Args:
        name: ``trained`` adversarially, or ``undefended``.
        training: images and labels.
        source: where they are from, part of the file's name.
        cache: folder to keep the weights in.
    """
    torch.manual_seed(0)
    model = digit_network()
    path = cache / f"{source}-{name}-{TRAINING_VERSION}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        _train(model, *training, epsilon=EPSILON if name == "trained" else 0.0)
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model.eval()


def _train(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, updates: int = 600
) -> None:
    """Take Adam steps on images shifted by PGD, whose radius grows over the first half.

    Written out here, so that the models compared on stay the same when Bartizan's attacks change.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, updates)
    for update in range(updates):
        chosen = torch.randint(len(images), (64,))
        clean, true = images[chosen], labels[chosen]
        attacked = _attacked(model, clean, true, epsilon * min(1.0, 2 * update / updates))
        model.train()
        optimiser.zero_grad()
        functional.cross_entropy(model(attacked), true).backward()
        optimiser.step()
        schedule.step()


def _attacked(model: nn.Module, clean: Tensor, true: Tensor, epsilon: float) -> Tensor:
    if not epsilon:
        return clean
    model.eval()
    low, high = (clean - epsilon).clamp_min(0), (clean + epsilon).clamp_max(1)
    point = low + (high - low) * torch.rand_like(clean)
    for _ in range(5):
        point.requires_grad_(True)
        loss = functional.cross_entropy(model(point), true, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        point = point.detach() + 2.5 / 5 * epsilon * gradient.sign()
        point = torch.minimum(torch.maximum(point, low), high)
    return point
