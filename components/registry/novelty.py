"""Novelty: whether there is anything to learn that a champion has not learnt already."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.config import Choice
from components.data.index import Index
from components.registry.champions import CHAMPION, registry
from components.registry.config import RenewalConfig
from components.registry.models import Version, fetch_words, list_versions
from components.registry.renewal import AFRESH, FIRST, NOTHING, ONWARDS, Renewal
from components.training.config import TrainingConfig

# Options of a backbone that say where its weights come from, and nothing of what it is.
_ORIGINS = ("pretrained", "reset_head", "weights")
_MOST_NAMED = 3


def decide_renewal(
    settings: RenewalConfig, name: str, training: TrainingConfig, index: Index
) -> Renewal:
    """Say whether training a registered model again would teach it anything.

    It would not if the champion has learnt from the same data by the same settings; nor if another
    version has, from the weights that training would start from now, and was refused.

    Args:
        settings: where training starts.
        name: of the registered model.
        training: its settings, with a backbone.
        index: of the present data.

    Raises:
        ValueError: there is no registry.
    """
    known = registry().search_registered_models(filter_string=f"name = '{name}'")
    versions = list_versions(name) if known else []
    champion = next((version for version in versions if CHAMPION in version.aliases), None)
    renewal, initial = Renewal(action=FIRST, reason=f"{name} has no champion yet"), None
    if champion:
        words = _read_words(champion)
        changes = list(_changes(words, training, index))
        if not changes:
            return _nothing(f"the champion, version {champion.number} of {name},", index)
        renewal = Renewal(
            action=_action(settings, words, training, index),
            reason=f"since version {champion.number}, the champion, {' and '.join(changes)}",
        )
        initial = champion.tags["checkpoint"] if renewal.action == ONWARDS else None
    for version in versions:
        if version is not champion and version.tags.get("data") == index.fingerprint:
            words = _read_words(version)
            same_start = words["provenance"].get("initial") == initial
            if same_start and not list(_changes(words, training, index)):
                return _nothing(f"version {version.number} of {name}, which was refused,", index)
    return renewal


def _nothing(who: str, index: Index) -> Renewal:
    reason = f"{who} has already learnt from this data ({index.fingerprint:.12}) by these settings"
    return Renewal(action=NOTHING, reason=reason)


def _action(
    settings: RenewalConfig, words: Mapping[str, Any], training: TrainingConfig, index: Index
) -> str:
    if not _knows(words, index):
        return FIRST
    onwards = settings.start == "champion" and _is_backbone(words, training.backbone)
    return ONWARDS if onwards else AFRESH


def _changes(words: Mapping[str, Any], training: TrainingConfig, index: Index) -> Iterator[str]:
    """Say in what a model was made otherwise than it would be made now."""
    made = words["provenance"]
    if not _knows(words, index):
        yield "the data has other classes or another size of images"
    elif made["data"] != index.fingerprint:
        yield f"the data changed from {made['data']:.12} to {index.fingerprint:.12}"
    if not _is_backbone(words, training.backbone):
        yield f"the backbone changed to {training.backbone}"
    try:
        before = TrainingConfig.from_json(json.dumps(made["settings"]))
    except ValueError:
        yield f"the settings are those of another kind of step than {made['stage']}"
        return
    old, new = (_what_teaches(config) for config in (before, training))
    changed = [
        f"{field} {new[field]} instead of {old[field]}" for field in new if new[field] != old[field]
    ]
    if changed:
        more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
        yield f"the settings changed: {', '.join(changed[:_MOST_NAMED])}{more}"


def _what_teaches(training: TrainingConfig) -> dict[str, Any]:
    """Give the settings that decide what is learnt, but for the backbone, which is known itself."""
    settings = json.loads(training.to_json())
    del settings["backbone"], settings["state_seconds"]
    return dict(settings)


def _knows(words: Mapping[str, Any], index: Index) -> bool:
    """Say whether a model tells the data's classes apart, on images of that size."""
    spec = words["spec"]
    return (spec["classes"], spec["image_shape"]) == (list(index.classes), list(index.image_shape))


def _is_backbone(words: Mapping[str, Any], backbone: Choice | None) -> bool:
    """Say whether a model has a backbone; pruning may have added its own options."""
    asked = {key: value for key, value in (backbone or {}).items() if key not in _ORIGINS}
    return asked.items() <= words["spec"]["backbone"].items()


def _read_words(version: Version) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        text = fetch_words(version.uri, Path(folder)).read_text(encoding="utf-8")
    return dict(json.loads(text))
