"""What preflight found, in the words of the report: section P of the checks."""

from components.evaluation.grading import check, grade
from components.evaluation.report import Check
from components.evaluation.tracing import Trace
from components.tensors import Images, Labels, Logits

SAME_DIRECTION = 1e-4  # AutoAttack's threshold for randomness
LEAKS = 1e-5  # of the logits' spread
INTERACTS = 1e-3


def report_mode(training: int) -> Check:
    """Say what was left in training mode."""
    return check(
        "P1",
        "Parts of the model left in training mode",
        training,
        "pass",
        "How many parts were in training mode when the model was handed over. They are attacked "
        "and judged in evaluation mode, as the model will be used, and put back afterwards.",
    )


def report_randomness(spread: float, *, randomised: bool, declared: bool) -> Check:
    """Say whether passes differ."""
    return check(
        "P2",
        "How much answers differ from pass to pass",
        spread,
        "pass" if declared or not randomised else "warn",
        "The same images were classified five times. A model whose answers differ is judged by the "
        "share of its answers that are right, and attacked through averages over many of them.",
        threshold=SAME_DIRECTION,
        remedy="Declare what draws at random as a defence, so that it says how to attack it.",
    )


def report_company(leak: float, alone: float | None, *, randomised: bool) -> Check:
    """Say whether images of a batch influence each other."""
    if alone is None and not randomised:
        more = " The model takes no image alone; where one is left it comes twice."
    else:
        more = f" Alone instead of in a batch changes {alone or 0.0:.1g}."
    strange = leak > LEAKS or (alone is None or alone > INTERACTS)
    return check(
        "P3",
        "How much an image's answer depends on its company",
        leak,
        "warn" if strange and not randomised else "pass",
        "Largest change of a logit, as a share of their spread, when the other images of the batch "
        "are exchanged. What fools the model in one batch may not in another." + more,
        threshold=LEAKS,
        remedy="Let the model treat each image of a batch by itself, also if there is just one.",
    )


def report_probabilities(probabilities: bool) -> Check:
    """Say whether the model ends in a softmax."""
    return check(
        "P4",
        "Probabilities instead of logits",
        probabilities,
        "warn" if probabilities else "pass",
        "A model that ends in a softmax rounds small probabilities to nothing and its gradients "
        "with them. It is also attacked through their logarithms, which change no decision.",
        remedy="Let the model return logits, what comes before the softmax.",
    )


def report_log_softmax(logits: Logits) -> Check:
    """Say whether the model ends in a log-softmax."""
    return check(
        "P5",
        "Logarithms of probabilities",
        bool((logits.logsumexp(1).abs() < 1e-4).all()),
        "pass",
        "1 if the model ends in a log-softmax. That is harmless: the losses that are climbed do "
        "not change when a number is added to all logits.",
    )


def report_path(gradient: Images | None) -> Check:
    """Say whether a gradient arrives."""
    return check(
        "P6",
        "No gradient from the answer to the pixels",
        gradient is None,
        "pass" if gradient is not None else "fail",
        "Attacks follow the gradient of the answer. A model that cuts it off can only be attacked "
        "by asking many questions, which is slower and finds less.",
        remedy="Give the model a method honest_view(draws) that keeps the gradient.",
    )


def report_numbers(gradient: Images | None) -> Check:
    """Say whether gradients are finite."""
    broken = 0.0
    if gradient is not None:
        broken = float((~gradient.isfinite()).flatten(1).any(1).float().mean())
    return check(
        "P7",
        "Gradients that are no numbers",
        broken,
        grade(broken, warn=0.0, fail=0.0),
        "Share of images whose gradient holds infinities or what is no number at all. Attacks can "
        "not follow it; the answers themselves are finite.",
        remedy="Find the operation whose derivative is not finite, such as a root at zero.",
    )


def report_range(images: Images) -> Check:
    """Say which part of [0, 1] the pixels use."""
    extent = float(images.max() - images.min())
    return check(
        "P8",
        "Distance between the darkest and the brightest pixel",
        extent,
        "warn" if extent < 0.05 else "pass",
        "Pixels must use the range from 0 to 1 in which the radius of the attack is measured. If "
        "they use little of it they were probably divided by 255 twice.",
        threshold=0.05,
        remedy="Check how the images were loaded.",
    )


def report_classes(num_classes: int, labels: Labels) -> Check:
    """Say how many classes there are."""
    limits = {2: " With two, the difference of logits ratio gives way to the margin.", 3: ""}
    return check(
        "P9",
        "Classes the model tells apart",
        num_classes,
        "pass",
        f"The labels hold {len(labels.unique())} of them. Attacks aim at each of the others in "
        "turn, as many as there are." + limits.get(num_classes, ""),
    )


def report_optimisation(trace: Trace) -> Check:
    """Say whether the model takes gradients itself."""
    return check(
        "P10",
        "Gradients taken while the model classifies",
        trace.gradients,
        "pass",
        "How often the model took a gradient during one forward pass. A model that searches for "
        "its answer reacts to an attack, see D1.",
    )


def report_rounding(gradient: Images | None, flat: float) -> Check:
    """Say whether the model rounds its input."""
    zero = 0.0 if gradient is None else float((gradient == 0).float().mean())
    rounded = flat > 0.5 and zero > 0.5
    return check(
        "P11",
        "Images whose answer ignores small changes",
        flat,
        "warn" if rounded else "pass",
        "Share of images whose logits stay exactly the same when every pixel moves by 1/10,000. "
        f"A share of {zero:.1%} of the gradient is exactly zero.",
        threshold=0.5,
        remedy="The model seems to round its input: declare that as a defence whose honest view "
        "passes gradients through the rounding as if it were not there.",
    )


def report_precision(trace: Trace) -> Check:
    """Say with how many digits the model computes."""
    return check(
        "P12",
        "Digits with which the model computes",
        trace.digits,
        "warn" if trace.digits < 23 else "pass",
        "Binary digits of the least exact number format in the model; float32 has 23. With fewer, "
        "differences that an attack needs are rounded away.",
        threshold=23,
        remedy="Evaluate the model in float32.",
    )


def report_passes(trace: Trace) -> Check:
    """Say how often layers run."""
    return check(
        "P13",
        "Passes through one layer per answer",
        trace.passes,
        "pass",
        "How often the busiest layer with weights runs to classify one batch: more than once where "
        "a model looks at several versions of an image or repeats a layer.",
    )
