"""Verdict, save_verdict, load_verdict: whether a challenger replaces the champion, and why."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

VERDICT = "verdict.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One condition of promotion.

    Attributes:
        name: in a word or two.
        passed: whether it holds.
        reason: what was found, in one sentence for people.
    """

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What comparing a challenger with the champion came to.

    Attributes:
        promoted: whether every rule passed.
        rules: all that were asked; after two evaluations that cannot be compared, none about their
            numbers.
        challenger: hash of its checkpoint.
        champion_version: the registry's number of the champion; empty where there was none.
        gain: robust accuracy of the challenger less that of the champion; None where they were not
            compared, as for the next two.
        p_value: chance of so many improved images if neither model were better.
        clean_loss: clean accuracy of the champion less that of the challenger.
    """

    promoted: bool
    rules: tuple[Rule, ...]
    challenger: str
    champion_version: str = ""
    gain: float | None = None
    p_value: float | None = None
    clean_loss: float | None = None

    def __str__(self) -> str:
        deciding = [rule.reason for rule in self.rules if rule.passed == self.promoted]
        return f"{'promoted' if self.promoted else 'not promoted'}: {' '.join(deciding)}"


def save_verdict(verdict: Verdict, folder: Path) -> None:
    """Write ``verdict.json`` into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(verdict)}, indent=2, allow_nan=False)
    (folder / VERDICT).write_text(text, encoding="utf-8")


def load_verdict(folder: Path) -> Verdict:
    """Read what `save_verdict` wrote.

    Raises:
        ValueError: the folder holds no verdict, or one of another schema.
    """
    try:
        values = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{folder} holds no verdict: {error}") from error
    if (schema := values.pop("schema", None)) != SCHEMA:
        raise ValueError(f"{folder / VERDICT} has schema {schema}, this version reads {SCHEMA}")
    return Verdict(**{**values, "rules": tuple(Rule(**rule) for rule in values["rules"])})
