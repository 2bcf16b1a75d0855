"""The report page: every number is there, doubts come first, nothing leaves it, text stays text."""

import base64
import dataclasses
import io
import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from components.evaluation.page import Examples, explain_trust, write_page
from components.evaluation.report import (
    Accuracy,
    AttackResult,
    Check,
    CorruptionResult,
    RobustnessReport,
)

HOSTILE = """<script>alert("1")</script>&'"""
VOID = {"meta", "link", "img", "br", "hr", "input"}
APART = {"th", "td", "dt", "dd", "small", "p", "br"}
EPSILON = 8 / 255


class Page(HTMLParser):
    """Reads a page, refuses wrong nesting, keeps its tags and its visible text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in APART:
            self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    @property
    def words(self):
        return " ".join(self.text.split())


def check(verdict, title="Gradients that vanish", **changes):
    values = {"id": "G1", "title": title, "value": 0.41, "threshold": 0.01, "verdict": verdict}
    values |= {"explanation": f"{title} explained", "remedy": f"{title} cured"}
    return Check(**(values | changes))


def report(**changes):
    values = {
        "title": "digits, pruned",
        "model": {
            "checkpoint": "9f2c" * 16,
            "backbone": {"name": "lenet5", "widths": [12, 31, 204, 88]},
            "defences": [{"name": "random_resize_pad", "size": 32}],
        },
        "data": {"fingerprint": "51ab" * 16, "split": "test", "classes": ["cat", "dog", "eel"]},
        "norm": "linf",
        "epsilon": EPSILON,
        "clean_accuracy": Accuracy.of(0.9, 200),
        "naive_robust_accuracy": Accuracy.of(0.75, 200),
        "robust_accuracy": Accuracy.of(0.25, 200),
        "attacks": (
            AttackResult(
                name="pgd-margin",
                view="honest",
                settings={"steps": 20, "step_size": None, "loss": "margin"},
                robust_accuracy=Accuracy.of(0.25, 200),
                seconds=78.3,
            ),
            AttackResult(
                name="fgsm",
                view="as_is",
                settings={},
                robust_accuracy=Accuracy.of(0.75, 200),
                seconds=0.4,
            ),
        ),
        "metrics": {"attack_robustness": 0.28},
        "curve": (),
        "checks": (check("pass", "Passing"), check("warn", "Warning"), check("fail", "Failing")),
        "trust": "masked",
        "costs": {"parameters": 43108, "flops": 1293000, "size_bytes": 174332},
        "settings": {"draws": 20, "suite": [{"name": "pgd", "steps": 20}]},
        "versions": {"torch": "2.15.0"},
        "seconds": 131.7,
    }
    return RobustnessReport(**(values | changes))


def samples():
    """Cats hold, dogs fall half of the time, eels are wrong already; a randomised model."""
    return pa.table(
        {
            "id": list("abcdefgh"),
            "label": [0, 0, 0, 0, 1, 1, 2, 2],
            "clean": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0],
            "robust": [1.0, 1.0, 1.0, 1.0, 0.25, 0.75, 0.0, 0.0],
        }
    )


def examples(count=2, channels=1, dtype=np.float32):
    shape = (count, channels, 4, 4)
    images = np.full(shape, 102, np.uint8)
    adversarial = images.copy()
    adversarial[:, :, 0, 0] += 10
    adversarial[:, :, 0, 1] -= 5
    if dtype != np.uint8:
        images, adversarial = (np.asarray(a / 255, dtype) for a in (images, adversarial))
    return Examples(
        images=images,
        adversarial=adversarial,
        labels=np.arange(count) % 3,
        predictions=np.arange(count) % 3,
        adversarial_predictions=np.full(count, 1),
    )


CURVE = ((0.0, Accuracy.of(0.9, 200)), (EPSILON, Accuracy.of(0.25, 200)))


@pytest.fixture
def write(tmp_path):
    def write(the_report, shown=None, curve=CURVE, rows=None):
        target = tmp_path / "report.html"
        shown = examples() if shown is None else shown
        the_report = dataclasses.replace(the_report, curve=tuple(curve))
        write_page(the_report, samples() if rows is None else rows, shown, target)
        return target.read_text(encoding="utf-8")

    return write


def chart(html):
    (svg,) = re.findall(r"<svg.*?</svg>", html, re.S)
    return ElementTree.fromstring(svg)


def pictures(html):
    """The embedded images as arrays, in the order of the page."""
    sources = [attrs["src"] for tag, attrs in Page(html).tags if tag == "img"]
    kind = "data:image/png;base64,"
    assert all(source.startswith(kind) for source in sources)
    files = [io.BytesIO(base64.b64decode(source.removeprefix(kind))) for source in sources]
    return [np.asarray(Image.open(file)) for file in files]


def test_doubts_come_before_numbers_and_failures_before_warnings(write):
    words = Page(write(report())).words
    order = [
        "masked",
        "Do not rely on this model",
        "Failing explained",
        "Failing cured",
        "Warning explained",
        "How many images it gets right",
        "What was tried against it",
        "How much change it withstands",
        "What fooling it looks like",
        "Can the number be believed?",
        "Passing explained",
        "Particulars",
    ]
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    assert "Passing cured" not in words


def test_without_warnings_the_page_says_so(write):
    words = Page(write(report(checks=(check("pass"),), trust="trusted"))).words
    assert "None. All 1 checks of the measurement passed." in words
    assert "Read this first" not in words
    assert "No check was made." in Page(write(report(checks=()))).words


def test_every_accuracy_comes_with_interval_and_count(write):
    words = Page(write(report())).words
    for share in (0.9, 0.75, 0.25):
        accuracy = Accuracy.of(share, 200)
        interval = f"95% interval {accuracy.low:.1%} to {accuracy.high:.1%} , n = 200"
        assert f"{share:.1%} {interval}".replace(" ,", ",") in words


@pytest.mark.parametrize(("naive", "marked"), [(0.75, True), (0.25, False)])
def test_naive_number_is_marked_only_where_it_flatters(write, naive, marked):
    html = write(report(naive_robust_accuracy=Accuracy.of(naive, 200)))
    assert ("not to be trusted" in Page(html).words) is marked
    assert ("s", {}) in Page(html).tags if marked else ("s", {}) not in Page(html).tags
    assert bool([p for p in chart(html).iter("path") if p.get("class") == "naive"]) is marked


def test_norm_and_epsilon_are_exact(write):
    words = Page(write(report())).words
    assert f"L∞ norm, ε = 8/255 (exactly {EPSILON!r})" in words
    assert "at most 8 of 255 brightness steps" in words
    words = Page(write(report(norm="l2", epsilon=0.5))).words
    assert "L2 norm, ε = 127.5/255 (exactly 0.5)" in words
    assert "distance of at most 0.5" in words


def test_attacks_are_listed_with_their_settings(write):
    words = Page(write(report())).words
    assert "pgd-margin strongest steps 20, step_size none, loss margin honest 25.0%" in words
    assert "1 min 18 s" in words
    assert "fgsm none as it is 75.0%" in words


def test_checks_are_listed_with_value_threshold_and_verdict(write):
    words = Page(write(report())).words
    assert "Failing G1 Failing explained 0.41 0.01 ✕ failed" in words
    assert "Passing G1 Passing explained 0.41 0.01 ✓ passed" in words


def test_particulars_are_complete(write):
    words = Page(write(report())).words
    for text in (
        "9f2c" * 16,
        "lenet5 (widths 12, 31, 204, 88)",
        "random_resize_pad (size 32)",
        "51ab" * 16,
        "cat, dog, eel",
        "parameters 43,108",
        "flops 1,293,000",
        "size bytes 174,332",
        "suite pgd (steps 20)",
        "torch 2.15.0",
        "2 min 12 s",
    ):
        assert text in words


def test_classes_are_counted_by_themselves_weakest_first(write):
    words = Page(write(report())).words
    dog, eel, cat = Accuracy.of(0.5, 2), Accuracy.of(0, 2), Accuracy.of(1, 4)
    table = [
        f"{name} {robust.num_images} {clean.value:.1%} {clean.low:.1%} to {clean.high:.1%} "
        f"{robust.value:.1%} {robust.low:.1%} to {robust.high:.1%}"
        for name, clean, robust in (
            ("eel", eel, eel),
            ("dog", Accuracy.of(1, 2), dog),
            ("cat", cat, cat),
        )
    ]
    assert " ".join(table) in words


def test_classes_without_a_name_get_a_number(write):
    assert "class 2" in Page(write(report(data={"classes": ["cat", "dog"]}))).words


@pytest.mark.parametrize("trust", ["trusted", "doubtful", "masked"])
def test_verdict_is_one_sentence_with_the_honest_number(write, trust):
    for naive in (0.75, 0.25):
        judged = report(trust=trust, naive_robust_accuracy=Accuracy.of(naive, 200))
        sentence = explain_trust(judged)
        assert "25.0%" in sentence
        assert len(re.findall(r"[.!?](?:\s|$)", sentence)) == 1
        assert ("75.0%" in sentence) is (trust == "masked" and naive == 0.75)
        page = Page(write(judged))
        assert sentence in page.words
        marks = [attrs["class"] for _, attrs in page.tags if "badge" in attrs.get("class", "")]
        assert marks == [f"mark badge {trust}"]


def test_curve_is_placed_where_its_numbers_say(write):
    shares = [(0, 0.9), (2, 0.8), (4, 0.6), (8, 0.25), (16, 0.05)]
    curve = [(k / 255, Accuracy.of(share, 200)) for k, share in shares]
    root = chart(write(report(), curve=curve))
    zero, one = (
        next(float(t.get("y")) - 4 for t in root.iter("text") if t.text == label)
        for label in ("0%", "100%")
    )
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]
    assert len(dots) == len(shares)
    for (x, y), (k, share) in zip(dots, shares, strict=True):
        assert (zero - y) / (zero - one) == pytest.approx(share, abs=1e-3)
        assert (x - dots[0][0]) / (dots[-1][0] - dots[0][0]) == pytest.approx(k / 16, abs=1e-3)
    (here,) = [line for line in root.iter("line") if line.get("class") == "here"]
    assert float(here.get("x1")) == pytest.approx(dots[3][0])
    words = root.find("desc").text
    assert "0/255: 90.0%; 2/255: 80.0%" in words
    assert root.get("aria-labelledby").split() == [
        root.find(t).get("id") for t in ("title", "desc")
    ]


def test_training_is_drawn_epoch_by_epoch_and_stage_by_stage(write):
    def epoch(clean, robust):
        return {
            "loss": 1.0,
            "validation_clean_accuracy": clean,
            "validation_robust_accuracy": robust,
        }

    first = {"stage": "one", "settings": {"epochs": 2}, "history": [epoch(0.5, 0), epoch(1, 0)]}
    second = {"stage": "two", "settings": {}, "history": [epoch(0.75, 0.5)], "before": first}
    pruned = {"stage": "prune", "settings": {"kl_weight": 0.2}, "before": second}
    html = write(report(model={"provenance": pruned}), curve=[])
    root = chart(html)
    lines = [line for line in root.iter("polyline") if "line a" in line.get("class")]
    points = [tuple(map(float, p.split(","))) for line in lines for p in line.get("points").split()]
    zero, one = (
        next(float(t.get("y")) - 4 for t in root.iter("text") if t.text == label)
        for label in ("0%", "100%")
    )
    assert [(zero - y) / (zero - one) for _, y in points] == pytest.approx([0.5, 1, 0.75])
    steps = [after[0] - before[0] for before, after in itertools.pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.02)
    words = root.find("desc").text
    assert "one: 2 epochs, at the end 100.0% without attack, 0.0% under attack." in words
    assert "two: 1 epochs, at the end 75.0% without attack, 50.0% under attack." in words
    page = Page(html).words
    assert "Recipe, stage 1: one epochs 2" in page
    assert "Recipe, stage 3: prune kl weight 0.2" in page
    assert "How it learned" not in Page(write(report())).words


def test_the_model_card_says_what_the_model_is_not_good_for(write):
    words = Page(write(report(latency_seconds=0.0123))).words
    assert "12.3 ms on the machine of the evaluation" in words
    assert "changes within linf 0.0313725 alone" in words
    assert "poor lenses or compression, was not measured" in words
    assert "The robust accuracy is masked: do not rely on it." in words
    assert "Licence none on record" in words
    assert "do not rely on it" not in Page(write(report(trust="trusted"))).words


def test_labels_of_the_axis_do_not_touch(write):
    curve = [(k / 255, Accuracy.of(0.5, 9)) for k in (0, 0.125, 35.125, 36.25, 150, 300)]
    root = chart(write(report(), curve=curve))
    low = max(float(line.get("y1")) for line in root.iter("line"))
    labels = [t for t in root.iter("text") if low + 10 < float(t.get("y")) < low + 25]
    assert [t.text for t in labels] == ["0", "35.125", "150", "300"]
    spans = [(float(t.get("x")), len(t.text) * 7.5 / 2) for t in labels]
    for (x, half), (next_x, next_half) in itertools.pairwise(spans):
        assert x + half < next_x - next_half


def test_curve_of_one_point_and_no_curve(write):
    one = [(0.0, Accuracy.of(0.5, 9))]
    assert len(list(chart(write(report(epsilon=0.0), curve=one)).iter("circle"))) == 1
    assert "<svg" not in write(report(), curve=[])


def test_corruptions_are_a_table_of_severities(write):
    shares = {"shot_noise": (0.8, 0.4), "fog": (0.5, 0.1)}
    results = tuple(
        CorruptionResult(name=name, severity=severity, accuracy=Accuracy.of(share, 200))
        for name, row in shares.items()
        for severity, share in enumerate(row, start=1)
    )
    page = Page(write(report(corruptions=results)))
    assert "Spoiled by Severity 1 2 Mean" in page.words
    assert "shot noise 80.0% 40.0% 60.0% fog 50.0% 10.0% 30.0%" in page.words
    mean = Accuracy.of(0.45, 200)
    assert (
        f"45.0% on average (95% interval {mean.low:.1%} to {mean.high:.1%}, n = 200)" in page.words
    )
    cells = [attrs for tag, attrs in page.tags if tag == "td" and "style" in attrs]
    assert [cell["style"] for cell in cells[:3]] == [
        f"--share: {s}%" for s in ("80.0", "40.0", "60.0")
    ]
    low, high = results[0].accuracy.low, results[0].accuracy.high
    assert cells[0]["title"] == f"95% interval {low:.1%} to {high:.1%}"
    assert "Spoiled by" not in Page(write(report())).words


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_show_clean_amplified_change_and_adversarial(write, channels, dtype):
    html = write(report(), shown=examples(1, channels, dtype))
    clean, change, adversarial = pictures(html)
    assert clean.shape == ((4, 4) if channels == 1 else (4, 4, 3))
    assert (clean == 102).all()
    assert (adversarial[0, 0] == 112).all() and (adversarial[0, 1] == 97).all()
    # 10 of 255 is the largest change, and 12 times that is the most that fits around grey.
    assert "amplified 12 times" in Page(html).words
    for place, level in (((0, 0), 127.5 + 120), ((0, 1), 127.5 - 60), ((3, 3), 127.5)):
        assert np.abs(change[place] - level).max() <= 0.5


def test_examples_name_true_and_predicted_classes(write):
    page = Page(write(report()))
    assert "✓ cat" in page.words and "✕ dog" in page.words
    assert "True class: cat" in page.words and "✓ dog" in page.words
    alternatives = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert alternatives[0] == "Clean image of class cat"
    assert alternatives[2] == "Adversarial image, taken for dog"


def test_page_without_examples_has_no_gallery(write):
    assert "What fooling it looks like" not in write(report(), shown=examples(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", np.zeros((2, 4, 4, 4))),
        ("images", np.zeros((2, 4, 4))),
        ("adversarial", np.zeros((2, 1, 4, 5))),
        ("labels", np.zeros(3)),
        ("predictions", np.zeros((2, 1))),
        ("adversarial_predictions", np.zeros(1)),
    ],
)
def test_examples_that_do_not_fit_together_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(examples(), **{field: value})


def test_text_never_becomes_markup(write):
    html = write(
        report(
            title=HOSTILE,
            model={HOSTILE: HOSTILE},
            data={"classes": [HOSTILE] * 3},
            norm=HOSTILE,
            attacks=(
                AttackResult(
                    name=HOSTILE,
                    view="honest",
                    settings={HOSTILE: [HOSTILE]},
                    robust_accuracy=Accuracy.of(0.5, 9),
                    seconds=1.0,
                ),
            ),
            checks=(check("warn", HOSTILE, id=HOSTILE, explanation=HOSTILE, remedy=HOSTILE),),
            settings={HOSTILE: {HOSTILE: HOSTILE}},
            versions={HOSTILE: HOSTILE},
        )
    )
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in html
    assert page.text.count(HOSTILE) >= 20
    assert f"Clean image of class {HOSTILE}" in [attrs.get("alt") for _, attrs in page.tags]


def test_no_request_leaves_the_page(write):
    html = write(report())
    assert not re.search(r"://|url\(|@import", html)
    for tag, attrs in Page(html).tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attrs if name.startswith("on")]
        assert all(attrs[name].startswith("data:") for name in ("src", "href") if name in attrs)
    policy = next(a["content"] for _, a in Page(html).tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_browser_has_nothing_to_complain_about(write, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    write(report())
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    flags += "--disable-background-networking --disable-component-update --enable-logging=stderr"
    done = subprocess.run(
        [
            *(chromium, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"),
            *("--dump-dom", (tmp_path / "report.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "How many images it gets right" in done.stdout
    assert "CONSOLE" not in done.stderr
