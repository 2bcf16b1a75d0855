"""The columns recomputed image by image, and on a model of which units are gone."""

import dataclasses

import pytest
import torch

from components.attacks.pgd import pgd
from components.pruning.compact import compact_model
from components.pruning.gates import gate_model, gates_in
from components.pruning.measures import attack_images, measure_columns

ATTACK = {"name": "pgd", "epsilon": 0.1, "steps": 3, "keep": "last"}


@pytest.fixture
def labels():
    return torch.arange(16) % 10


def features_of(model, images):
    """What every ReLU of LeNet-5 gives, written out."""
    net, hidden = model.backbone, (images - 0.2) / 0.4
    first = net.conv1(hidden).relu()
    second = net.conv2(net.pool(first)).relu()
    third = net.dense3(net.pool(second).flatten(1)[:, net.positions]).relu()
    return [first, second, third]


def measured(model, source, images, labels, attack=ATTACK, batch_size=256):
    crafted = [
        torch.cat(list(attack_images(each, images, labels, attack=attack, batch_size=batch_size)))
        for each in (model, source)
    ]
    return measure_columns(
        model,
        source,
        images,
        labels,
        white_box=crafted[0],
        black_box=crafted[1],
        batch_size=batch_size,
    )


@torch.no_grad()
def test_columns_are_those_of_all_images_at_once(make_model, images, labels):
    model, source = make_model(), make_model()
    found = measured(model, source, images, labels, batch_size=7)
    white, black = [], []
    for number, (clean, true) in enumerate(zip(images.split(7), labels.split(7), strict=True)):
        options = {k: v for k, v in ATTACK.items() if k != "name"}
        white.append(pgd(model, clean, true, seed=number, **options))
        black.append(pgd(source, clean, true, seed=number, **options))
    for name, twins in (("white_box", torch.cat(white)), ("black_box", torch.cat(black))):
        accuracy = float((model(twins).argmax(1) == labels).float().mean())
        assert getattr(found, f"{name}_accuracy") == pytest.approx(accuracy)
        pairs = zip(features_of(model, images), features_of(model, twins), strict=True)
        moved = [float((clean - twin).abs().mean()) for clean, twin in pairs]
        assert getattr(found, f"{name}_vulnerability") == pytest.approx(sum(moved) / 3, rel=1e-4)
        if name == "white_box":
            sizes = [float(feature.abs().mean()) for feature in features_of(model, images)]
            assert found.layer_vulnerability == pytest.approx(moved, rel=1e-4)
            assert found.relative_vulnerability == pytest.approx(
                [m / s for m, s in zip(moved, sizes, strict=True)], rel=1e-4
            )
    assert (found.memory_percent, found.flops_ratio, found.sparsity_percent) == (100, 1, 0)


@torch.no_grad()
def test_clean_accuracy_is_that_of_all_images_and_the_rest_of_those_attacked(make_model, images):
    model, source, attacked = make_model(), make_model(), images[:5]
    labels = model(images).argmax(1)
    labels[:2] = (labels[:2] + 1) % 10
    found = measure_columns(
        model, source, images, labels, white_box=attacked, black_box=1 - attacked
    )
    assert found.attacked_images == 5
    assert found.clean_accuracy == pytest.approx(14 / 16)
    assert found.white_box_accuracy == pytest.approx(3 / 5)
    assert found.white_box_vulnerability == 0 < found.black_box_vulnerability


@pytest.mark.parametrize(
    ("widths", "memory", "flops", "sparsity"),
    [((13, 20, 99, 30), 9.496, 3.751, 88.175), ((13, 25, 156, 54), 11.034, 3.182, 81.898)],
)
def test_costs_of_narrower_networks_are_the_published_ones(
    make_model, images, labels, widths, memory, flops, sparsity
):
    model, source = make_model(widths), make_model((20, 50, 800, 500))
    found = measured(model, source, images, labels, attack={**ATTACK, "steps": 1})
    assert found.memory_percent == pytest.approx(memory, abs=1e-3)
    assert found.flops_ratio == pytest.approx(flops, abs=1e-3)
    assert found.sparsity_percent == pytest.approx(sparsity, abs=1e-3)


def test_units_that_are_gone_count_as_units_that_do_not_move(make_model, images, labels, open_only):
    """The narrower network has the vulnerability of the gated one, where closed units give 0."""
    full = make_model()
    gated = gate_model(full, threshold=1e-3, initial_keep_probability=0.5).eval()
    for gate in gates_in(gated).values():
        open_only(gate, torch.arange(len(gate.raw_a)) % 3 > 0)
    compact = compact_model(gated)
    found = measured(compact, full, images, labels)
    same = measured(full, full, images, labels)
    twins = pgd(compact, images, labels, epsilon=0.1, steps=3, keep="last", seed=0)
    features = []
    gated.backbone.relu.register_forward_hook(lambda _module, _inputs, out: features.append(out))
    with torch.no_grad():
        gated(images), gated(twins)
    # Of the last feature, the gate is behind the ReLU: closed units still move there.
    moved = [float((a - b).abs().mean()) for a, b in zip(features[:2], features[3:5], strict=True)]
    assert found.layer_vulnerability[:2] == pytest.approx(moved, rel=1e-4)
    assert found.sparsity_percent > 30 and found.units["conv1"] == 2
    assert dataclasses.asdict(same)["zero_weights_percent"] == 0
