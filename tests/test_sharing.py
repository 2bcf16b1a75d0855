"""Two processes, each with its share of a batch, come to what one finds on all of it."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn import functional

from components.objectives.awp import awp
from components.sharing import SharedStatistics, batch_means

SHARES = [slice(0, 3), slice(3, 8)]
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def problem():
    """A network with both kinds of normalisation, in double precision, and a batch of eight."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(3 * 16, 5),
        nn.BatchNorm1d(5, momentum=0.3),
    ).double()
    return model, torch.rand(8, 2, 6, 6).double() * 3 + 10, torch.eye(5).double().repeat(2, 1)[:8]


def descend(model, images, labels):
    functional.cross_entropy(model(images), labels).backward()


def align(model, images, labels):
    """The loss holds a gradient with respect to the images, as GradAlign's does."""
    images = images.clone().requires_grad_()
    loss = functional.cross_entropy(model(images), labels)
    (slope,) = torch.autograd.grad(loss, images, create_graph=True)
    length = slope.flatten(1).norm(dim=1, keepdim=True)
    (slope.flatten(1) / length).pow(4).sum(1).mean().backward()


def shift(model, images, labels):
    def objective(model, images, labels, **_):
        return {"loss": functional.cross_entropy(model(images), labels)}

    awp(model, images, labels, objective=objective, gamma=0.1)["loss"].backward()


STEPS = {"descend": descend, "align": align, "shift": shift}


def found(name, share=slice(None)):
    model, images, labels = problem()
    with SharedStatistics() if dist.is_initialized() else nullcontext():
        STEPS[name](model, images[share], labels[share])
    gradients = [weight.grad for weight in model.parameters()]
    return [*batch_means(gradients, len(images[share])), *(b.clone() for b in model.buffers())]


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    both = {name: found(name, SHARES[rank]) for name in STEPS}
    torch.save(both, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", STEPS)
def test_shares_come_to_the_whole(name, together):
    """Gradients and running statistics alike, and the same in both processes bit by bit."""
    alone = found(name)
    for one, two, whole in zip(together[0][name], together[1][name], alone, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, whole, **EXACT)


def test_alone_nothing_changes():
    values = [torch.ones(2), torch.tensor(3.0)]
    assert all(map(torch.equal, batch_means(values, 4), values))
