import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.models.checkpoint import load_checkpoint, save_checkpoint
from components.models.costs import costs
from components.models.lenet import LeNet5
from components.pruning.compact import ClosedLayer, compact_model, hold_last_units
from components.pruning.gates import gate_model, gates_in

AS_PUBLISHED = {"threshold": 1e-3, "initial_keep_probability": 0.2386}
SHARES = st.tuples(*[st.floats(0.0, 1.0)] * 4)


@pytest.fixture
def gate_at_random(open_only):
    """Gate a model and open the given share of each layer's units, chosen at random."""

    def gate_at_random(model, shares, seed):
        torch.manual_seed(seed)
        gated = gate_model(model, **AS_PUBLISHED).eval()
        for gate, share in zip(gates_in(gated).values(), shares, strict=True):
            open_only(gate, torch.rand(len(gate.raw_a)) < share)
        hold_last_units(gated)
        return gated

    return gate_at_random


def largest_difference(one, other, images):
    with torch.no_grad():
        return float((one(images) - other(images)).abs().max())


def open_counts(gated):
    return [int(gate.is_open().sum()) for gate in gates_in(gated).values()]


def test_compact_equals_gated_whatever_is_open(make_model, gate_at_random, images):
    @settings(max_examples=40, deadline=None)
    @given(SHARES, SHARES, st.integers(0, 2**32 - 1))
    def check(first, second, seed):
        gated = gate_at_random(make_model(), first, seed)
        once = compact_model(gated)
        assert largest_difference(gated, once, images) <= 1e-5
        gated_again = gate_at_random(once, second, seed + 1)
        twice = compact_model(gated_again)
        assert largest_difference(gated_again, twice, images) <= 1e-5
        for before, narrower in ((gated, once), (gated_again, twice)):
            widths = narrower.backbone.widths
            assert all(w <= n for w, n in zip(widths, open_counts(before), strict=True))
            assert min(widths) >= 1

    check()


def test_compact_is_an_ordinary_backbone_that_its_checkpoint_rebuilds(
    make_model, gate_at_random, images, tmp_path
):
    compact = compact_model(gate_at_random(make_model(), (0.5, 0.5, 0.3, 0.5), 1))
    assert type(compact.backbone) is LeNet5
    assert compact.spec.backbone == {"name": "lenet5", "widths": list(compact.backbone.widths)}
    assert not gates_in(compact)
    assert not any(t.is_meta for t in (*compact.parameters(), *compact.buffers()))
    save_checkpoint(compact, tmp_path, provenance={})
    assert largest_difference(compact, load_checkpoint(tmp_path), images) == 0


def test_all_open_keeps_every_unit(make_model, images):
    gated = gate_model(make_model(), **AS_PUBLISHED).eval()
    compact = compact_model(gated)
    assert compact.backbone.widths == (4, 6, 96, 12)
    assert largest_difference(gated, compact, images) <= 1e-6


def test_coupled_gates_are_intersected(make_model, open_only, images):
    gated = gate_model(make_model(), **AS_PUBLISHED).eval()
    gates = gates_in(gated)
    channels = torch.arange(96) // 16
    open_only(gates["conv2"], torch.tensor([True, True, True, False, False, False]))
    # Channel 0 keeps two of its positions, 1 none, 2 all; those of 3 go with their channel.
    is_read = (channels == 2) | (channels == 3)
    is_read[[3, 7]] = True
    open_only(gates["dense3"], is_read)
    compact = compact_model(gated)
    assert compact.backbone.widths == (4, 2, 18, 12)
    assert compact.backbone.positions.tolist() == [3, 7, *range(16, 32)]
    assert largest_difference(gated, compact, images) <= 1e-5


def test_true_costs_are_at_most_those_of_independent_widths(make_model, gate_at_random):
    for seed in range(5):
        gated = gate_at_random(make_model(), (0.5,) * 4, seed)
        conv1, conv2, flat, dense = open_counts(gated)
        independent = 576 * conv1 * 51 + 576 * conv1 + 64 * conv2 * (50 * conv1 + 1) + 64 * conv2
        independent += (2 * flat + 1) * dense + 20 * dense
        assert costs(compact_model(gated))["flops"] <= independent


@pytest.mark.parametrize("layer", ["conv1", "conv2", "dense3", "dense4"])
def test_a_closed_layer_is_refused_by_name_unless_its_likeliest_unit_is_held(
    make_model, open_only, images, layer
):
    gated = gate_model(make_model(), **AS_PUBLISHED).eval()
    gate = gates_in(gated)[layer]
    open_only(gate, torch.zeros(len(gate.raw_a), dtype=torch.bool))
    gate.raw_a.data[2] = -8.5
    with pytest.raises(ClosedLayer, match="is open"):
        compact_model(gated)
    hold_last_units(gated)
    assert gate.held.nonzero().tolist() == [[2]]
    compact = compact_model(gated)
    assert min(compact.backbone.widths) == 1
    assert largest_difference(gated, compact, images) <= 1e-5
    gate.raw_a.data[:2] = 1.0
    hold_last_units(gated)
    assert gate.is_open().nonzero().flatten().tolist() == [0, 1]


def test_channels_and_positions_that_miss_each_other_are_a_closed_layer(make_model, open_only):
    gated = gate_model(make_model(), **AS_PUBLISHED).eval()
    gates = gates_in(gated)
    open_only(gates["conv2"], torch.arange(6) == 0)
    open_only(gates["dense3"], torch.arange(96) // 16 == 1)
    with pytest.raises(ClosedLayer, match="conv2"):
        compact_model(gated)
    hold_last_units(gated)
    conv1, conv2, flat, dense = compact_model(gated).backbone.widths
    assert (conv1, conv2, dense) == (4, 1, 12) and flat in (1, 16)


def test_defences_stay_on(make_model, images):
    defences = ({"name": "gradient_concealment"}, {"name": "random_resize_pad"})
    gated = gate_model(make_model(defences=defences), **AS_PUBLISHED).eval()
    compact = compact_model(gated)
    assert compact.spec.defences == gated.spec.defences
    assert type(compact.network) is type(gated.network)
    results = []
    for model in (gated, compact):
        torch.manual_seed(3)
        results.append(model(images))
    assert torch.allclose(*results, atol=1e-5)


def test_compacting_changes_neither_gates_nor_the_random_state(make_model, images):
    gated = gate_model(make_model(), **AS_PUBLISHED).eval()
    before, state = gated(images), torch.get_rng_state()
    compact = compact_model(gated)
    compact.backbone.conv1.weight.data.zero_()
    assert torch.equal(gated(images), before)
    assert torch.equal(torch.get_rng_state(), state)
