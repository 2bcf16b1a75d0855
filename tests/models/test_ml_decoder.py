"""ML-Decoder against its formula, computed by torch's own layers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.models.ml_decoder import MLDecoder


def decoder(num_classes, in_channels):
    torch.manual_seed(0)
    made = MLDecoder(num_classes, in_channels).eval()
    with torch.no_grad():  # so that nothing that starts from 0 or 1 can be forgotten
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


def features(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("num_classes", "in_channels", "all_numbers"),
    [(100, 768, 6_259_812), (20, 512, 5_940_244), (1000, 2048, 7_934_952)],
)
def test_published_size(num_classes, in_channels, all_numbers):
    with torch.device("meta"):
        made = MLDecoder(num_classes, in_channels)
    assert sum(value.numel() for value in made.state_dict().values()) == all_numbers
    queries = min(100, num_classes) * 768  # which are not trained
    assert sum(value.numel() for value in made.parameters()) == all_numbers - queries


@pytest.mark.parametrize(("num_classes", "group"), [(7, 1), (100, 1), (101, 2), (250, 3)])
@torch.no_grad()
def test_the_formula(num_classes, group):
    made, maps = decoder(num_classes, 12), features(3, 12, 4, 5)
    attention = nn.MultiheadAttention(768, 8, batch_first=True)
    layers = (made.query, made.key, made.value)
    attention.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
    attention.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
    attention.out_proj.load_state_dict(made.mix.state_dict())

    tokens = maps.reshape(3, 12, 20).permute(0, 2, 1)
    memory = functional.relu(tokens @ made.embed.weight.T + made.embed.bias)
    told = made.norm1(2 * made.queries).repeat(3, 1, 1)
    told = made.norm2(told + attention(told, memory, memory)[0])
    hidden = functional.relu(functional.linear(told, made.expand.weight, made.expand.bias))
    told = made.norm3(told + functional.linear(hidden, made.contract.weight, made.contract.bias))
    assert made.norm3.eps == 1e-5 and made.readout.shape == (min(100, num_classes), 768, group)
    logits = made(maps)
    for label in range(num_classes):
        query, place = divmod(label, group)
        expected = told[:, query] @ made.readout[query, :, place] + made.bias[label]
        assert torch.allclose(logits[:, label], expected, atol=1e-5)


def test_queries_stay_whatever_is_trained():
    made = MLDecoder(5, 3)
    before = made.queries.clone()
    for parameter in made.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(made.parameters(), 0.1, weight_decay=0.1)
    functional.cross_entropy(made(features(2, 3, 2, 2)), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert torch.equal(made.queries, before) and not made.queries.requires_grad
    assert "queries" in made.state_dict()


def test_where_weights_start():
    torch.manual_seed(0)
    made = MLDecoder(250, 6)
    assert made.queries.std().item() == pytest.approx(1, rel=0.01)
    deviation = math.sqrt(2 / (768 * 3 + 100 * 3))  # Glorot's, of three classes to a query
    assert made.readout.std().item() == pytest.approx(deviation, rel=0.01)
    for layer in (made.query, made.key, made.value):
        bound = math.sqrt(6 / (768 + 3 * 768))
        assert 0.99 * bound < layer.weight.abs().max() <= bound
    for bias in (made.bias, made.query.bias, made.key.bias, made.value.bias, made.mix.bias):
        assert not bias.any()


def test_dropout_only_while_training():
    made, maps = decoder(4, 3), features(2, 3, 3, 3)
    assert torch.equal(made(maps), made(maps))
    assert not torch.equal(made.train()(maps), made(maps))
    assert {part.p for part in made.modules() if isinstance(part, nn.Dropout)} == {0.1}


def test_there_is_a_second_derivative():
    made, maps = decoder(4, 3), features(2, 3, 2, 2).requires_grad_(True)
    (first,) = torch.autograd.grad(made(maps).sum(), maps, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), maps)
    assert second.isfinite().all() and second.any()
