"""Corruption accuracy of models whose answer to a corruption is known."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from components.augmentations.corruptions import CORRUPTIONS
from components.evaluation import corruption
from components.evaluation.config import CORRUPTION_NAMES, EvaluationConfig
from components.evaluation.corruption import SEVERITIES, measure_corruptions
from components.evaluation.evaluate import evaluate_candidate, evaluate_robustness
from components.evaluation.report import REPORT, Accuracy, load_report
from components.evaluation.state import State
from components.evaluation.summarise import Candidate, Dataset


class Constant(nn.Module):
    """Gives the same answer whatever it sees."""

    def forward(self, images):
        return images.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([0.0, 1.0])


class Redder(nn.Module):
    """Tells whether more pixels are redder than blue; a change of brightness keeps the hue."""

    def forward(self, images):
        redder = (images[:, 0] > images[:, 2]).float().mean((1, 2))
        return torch.stack([1 - redder, redder], dim=1)


class Brighter(nn.Module):
    """Tells whether an image is brighter than a level."""

    def __init__(self, level=0.5):
        super().__init__()
        self.level = level

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([torch.full_like(mean, self.level), mean], dim=1)


def judge(model):
    return lambda images, labels: (model(images).argmax(1) == labels).float()


def random_images(count, *, size=6, top=0.4):
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(0)) * top


def by_name(results):
    return {(result.name, result.severity): result.accuracy for result in results}


def test_settings_know_all_corruptions_by_name():
    assert tuple(CORRUPTIONS) == CORRUPTION_NAMES
    settings = EvaluationConfig(epsilon=0.1, corruptions=("all",))
    assert settings.spoiled_by == CORRUPTION_NAMES
    assert EvaluationConfig(epsilon=0.1, corruptions=("fog",)).spoiled_by == ("fog",)
    assert EvaluationConfig(epsilon=0.1).spoiled_by == ()
    assert EvaluationConfig.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("corruptions", "message"),
    [
        (("rain",), "unknown corruption 'rain', expected one of"),
        (("fog", "fog"), "must not name one twice"),
        (("all", "fog"), "must be all by itself"),
    ],
)
def test_wrong_corruptions_are_refused(corruptions, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(epsilon=0.1, corruptions=corruptions)


def test_constant_classifier_keeps_its_accuracy_under_everything():
    images, labels = random_images(70), torch.arange(70) % 3 % 2
    results = measure_corruptions(judge(Constant()), images, labels, CORRUPTION_NAMES)
    assert len(results) == 17 * 5
    assert [(r.name, r.severity) for r in results[:6]] == [("fog", s) for s in SEVERITIES] + [
        ("shot_noise", 1)
    ]
    expected = Accuracy.of(float((labels == 1).double().mean()), 70)
    assert all(result.accuracy == expected for result in results)


def test_invariant_classifier_keeps_its_accuracy_and_another_loses_it():
    images = random_images(130)
    labels = Redder()(images).argmax(1)
    shares = by_name(measure_corruptions(judge(Redder()), images, labels, ("brightness",)))
    assert all(accuracy.value == 1.0 for accuracy in shares.values())
    # All images are dark, until they are made brighter by much.
    dark = by_name(
        measure_corruptions(judge(Brighter(0.4)), images, torch.zeros(130).long(), ("brightness",))
    )
    values = [dark["brightness", severity].value for severity in SEVERITIES]
    assert values[0] == 1.0 and values[-1] == 0.0 and values == sorted(values, reverse=True)


def test_accuracy_is_that_of_the_blocks_spoiled_one_by_one():
    images, labels = random_images(150, top=1.0), torch.arange(150) % 2
    seen = []

    def remember(block, truth):
        seen.append(block.clone())
        return judge(Brighter())(block, truth)

    (result,) = measure_corruptions(remember, images, labels, ("shot_noise",), severities=(3,))
    assert [len(block) for block in seen] == [64, 64, 22]
    spoiled = torch.cat(seen)
    right = float((Brighter()(spoiled).argmax(1) == labels).double().mean())
    assert result.accuracy == Accuracy.of(right, 150)
    assert not torch.equal(spoiled[:22], spoiled[64:86])
    # 12 photons at full brightness: values are whole twelfths.
    assert torch.allclose(spoiled * 12, (spoiled * 12).round(), atol=1e-4)


def test_nothing_but_the_seed_and_the_order_decides():
    images, labels = random_images(100, top=1.0), torch.arange(100) % 2

    def spoiled(images, operations, seed=0, severities=(2,)):
        seen = {}

        def remember(block, truth):
            seen[len(seen)] = block.clone()
            return judge(Constant())(block, truth)

        measure_corruptions(
            remember, images, labels[: len(images)], operations, severities=severities, seed=seed
        )
        return torch.cat(list(seen.values()))

    alone = spoiled(images, ("speckle_noise",))
    assert torch.equal(spoiled(images, ("fog", "speckle_noise"))[100:], alone)
    assert torch.equal(spoiled(images, ("speckle_noise",), severities=(1, 2))[100:], alone)
    assert not torch.equal(spoiled(images, ("speckle_noise",), seed=1), alone)
    assert torch.equal(spoiled(images[:64], ("speckle_noise",)), alone[:64])
    levels = (images * 255).round()
    as_bytes = spoiled(levels.to(torch.uint8), ("speckle_noise",))
    assert torch.equal(as_bytes, spoiled(levels / 255, ("speckle_noise",)))


def test_batch_size_makes_no_difference(lin400):
    reports = [
        evaluate_robustness(
            lin400.model,
            lin400.images[:70],
            lin400.labels[:70],
            epsilon=0.01,
            suite=("fgsm",),
            corruptions=("shot_noise", "elastic"),
            batch_size=batch_size,
        )
        for batch_size in (30, 400)
    ]
    assert reports[0].corruptions == reports[1].corruptions


def test_unknown_corruptions_are_refused_before_anything_is_judged():
    with pytest.raises(ValueError, match="unknown corruption 'rain'"):
        measure_corruptions(None, random_images(2), torch.zeros(2).long(), ("fog", "rain"))


def test_report_and_figures_carry_every_accuracy(lin400, tmp_path):
    settings = EvaluationConfig(epsilon=0.01, suite=("fgsm",), corruptions=("contrast", "compress"))
    report = evaluate_candidate(
        Candidate(model=lin400.model, title="linear"),
        Dataset(images=lin400.images, labels=lin400.labels),
        settings,
        target=tmp_path,
    )
    loaded, _ = load_report(tmp_path)
    assert loaded.corruptions == report.corruptions and len(report.corruptions) == 10
    accuracies = by_name(report.corruptions)
    values = [accuracy.value for accuracy in accuracies.values()]
    mean = report.mean_corruption_accuracy
    assert mean == Accuracy.of(sum(values) / 10, 400) and mean.num_images == 400
    figures = report.figures()
    assert figures["mean_corruption_accuracy"] == mean.value
    assert figures["corruption_accuracy.compress.4"] == accuracies["compress", 4].value
    assert "Spoiled by" in (tmp_path / "report.html").read_text()
    without = replace(report, corruptions=())
    assert without.mean_corruption_accuracy is None
    assert not [name for name in without.figures() if "corruption" in name]


def test_a_report_from_before_corruptions_is_still_read(lin400, tmp_path):
    evaluate_candidate(
        Candidate(model=lin400.model, title="linear"),
        Dataset(images=lin400.images[:20], labels=lin400.labels[:20]),
        EvaluationConfig(epsilon=0.01, suite=("fgsm",)),
        target=tmp_path,
    )
    values = json.loads((tmp_path / REPORT).read_text())
    assert values.pop("corruptions") == []
    (tmp_path / REPORT).write_text(json.dumps(values))
    assert load_report(tmp_path)[0].corruptions == ()


def test_finished_pieces_are_not_judged_again(tmp_path, monkeypatch):
    monkeypatch.setattr(corruption, "_BLOCKS_PER_PIECE", 1)
    images, labels = random_images(200, top=1.0), torch.arange(200) % 2
    whole = measure_corruptions(judge(Brighter()), images, labels, ("frost", "speckle_noise"))
    asked = []

    class Killed(Exception):
        pass

    def dies_after(count):
        def fragile(block, truth):
            if len(asked) == count:
                raise Killed
            asked.append(len(block))
            return judge(Brighter())(block, truth)

        return fragile

    def measure(judged):
        state = State(tmp_path, {"test": 1})
        operations = ("frost", "speckle_noise")
        return measure_corruptions(
            judged, images, labels, operations, state=state, advance=done.append
        )

    done = []
    for count in (5, 17):
        with pytest.raises(Killed):
            measure(dies_after(count))
        done.clear()
    assert measure(dies_after(None)) == whole
    assert sum(asked) == 200 * 10 == sum(done)
    assert measure(None) == whole
