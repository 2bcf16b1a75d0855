"""Source -> splits -> resized images -> shards, once, deterministically, in bounded memory."""

import os
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from components.choose import choose
from components.data.card import write_card
from components.data.config import DataConfig
from components.data.decode import Broken, Shaping, decode
from components.data.index import Index
from components.data.ledger import Ledger, Planned
from components.data.placing import CARD, QUARANTINE, Place
from components.data.shards import Encoded, Example, Summary, encode, write_encoded
from components.data.sources import SOURCES, Source
from components.storage import MissingFile
from components.tracking import UNTRACKED, Run

_LARGEST_RAW = 64  # pixels a side, up to which decoding costs more than reading
_BLOCK = 16  # images that a thread takes at once
_SHOWN = 3  # broken images that an error names

Item = TypeVar("Item")
Result = TypeVar("Result")


def prepare(settings: DataConfig, target: Path, run: Run = UNTRACKED) -> dict[str, float]:
    """Prepare a data set: the same source and settings give the same shards, byte by byte.

    What cannot be used is listed in ``quarantine.jsonl``, a line per image with its reason. So are
    repeated pixels, unless they are to be kept: each image counts once, and none is both trained
    and tested on. If the shards
    of an unchanged source are there already, no image is read.

    Args:
        settings: the source and what becomes of it.
        target: receives the shards, or, if `settings` keep them elsewhere, their index; beside it
            the list of what was put aside, and a page for people.
        run: gets the progress.

    Returns:
        The number of ``classes``, the images per split, such as ``train_images``, and the
        ``quarantined_images``.

    Raises:
        ValueError: the source is not laid out as it must be, too many images are broken, images
            differ in shape, a split would be empty, or the target holds shards already.
    """
    source: Source = choose(SOURCES, settings.source)()
    place = Place(settings, source, target)
    if found := place.find():
        print(f"{run.name}: the source is unchanged, so are the shards in {found[0].location}")
        return _figures(*found)
    with tempfile.TemporaryDirectory() as name, Ledger(Path(name), source.classes) as ledger:
        scratch = Path(name)
        encoding = _fill(ledger, source, settings, run)
        _write_quarantine(ledger, scratch / QUARANTINE)
        place.output.upload(scratch / QUARANTINE, QUARANTINE)
        _check_broken(ledger, settings.max_broken, target / QUARANTINE)
        facts = _facts(ledger, _summary(source, settings, encoding), target / QUARANTINE)
        folder, index = place.shards(facts, settings.shard_images)
        if index is None:
            summary = _summary(source, settings, encoding)
            index = write_encoded(folder, ledger.rows(), summary, settings.shard_images)
        write_card(scratch / CARD, index, ledger, settings)
        _check_sum(index, ledger)
        place.finish(folder, index, ledger.counts().quarantined, scratch)
        return _figures(index, ledger.counts().quarantined)


def _fill(ledger: Ledger, source: Source, settings: DataConfig, run: Run) -> str:
    """Take the source's images into the ledger; give the encoding they have there."""
    sizes = ledger.list_records(source.records())
    cuts = _validation_cuts(source, sizes, settings.validation_share)
    ledger.cut_validation(sizes, cuts, settings.seed, mixed=source.mixed)
    training, testing = _shapings(settings, grey=source.grey)
    encoding = _encoding(settings, source, ledger, testing)

    def work(block: list[Planned]) -> list[Encoded | Broken]:
        return [encoded(planned) for planned in block]

    def encoded(planned: Planned) -> Encoded | Broken:
        try:
            content = source.read(planned.name)
            shaping = training if planned.split == "train" else testing
            pixels, is_own_jpeg = decode(content, shaping)
        except Broken as broken:
            return broken
        except MissingFile:
            return Broken("is missing")
        example = Example(planned.split, planned.label, pixels, planned.name)
        return encode(example, encoding, content if is_own_jpeg else b"")

    with warnings.catch_warnings(), run.progress(sizes.total(), "images") as progress:
        # Remarks on damaged notes in readable files; what makes a file unreadable is an error.
        warnings.filterwarnings("ignore", module="PIL")
        for block, results in _in_order(work, _blocks(ledger.planned())):
            for planned, result in zip(block, results, strict=True):
                if isinstance(result, Broken):
                    ledger.put_aside(planned, str(result))
                else:
                    ledger.keep(planned.rank, result)
            progress.advance(len(block))
    if not settings.keep_repeated:
        ledger.settle_repeated()
    return encoding


def _validation_cuts(
    source: Source, sizes: Counter[tuple[str, str]], share: float
) -> dict[str, int]:
    """Say how many training images of each class validate: the share, rounded half up.

    Each class keeps at least one image to train on.
    """
    for name in source.classes:
        if not sizes["train", name]:
            raise ValueError(f"class {name!r} has no training images")
    if not any(sizes["test", name] for name in source.classes):
        raise ValueError("the test split must hold at least one image, and is empty")
    cuts = {
        name: min(int(share * sizes["train", name] + 0.5), sizes["train", name] - 1)
        for name in source.classes
    }
    if not any(cuts.values()):
        raise ValueError(f"validation_share {share} leaves no image to validate on; raise it")
    return cuts


def _shorter_side(settings: DataConfig) -> int:
    if settings.resize != "crop":
        return 0
    return settings.shorter_side or round(settings.image_size * 8 / 7)


def _shapings(settings: DataConfig, *, grey: bool) -> tuple[Shaping, Shaping]:
    """Say what becomes of training images, and of all others."""
    shapings = (
        Shaping(
            grey=grey,
            image_size=settings.image_size,
            shorter_side=_shorter_side(settings),
            cut=cut,
            min_side=settings.min_side,
        )
        for cut in (not settings.keep_larger, True)
    )
    training, testing = shapings
    return training, testing


def _encoding(settings: DataConfig, source: Source, ledger: Ledger, shaping: Shaping) -> str:
    """Settle ``auto`` by the size of the images, which is that of the first readable one."""
    if settings.encoding != "auto":
        return settings.encoding
    side = _shorter_side(settings) if settings.keep_larger else settings.image_size
    if not side:
        for planned in ledger.planned():
            try:
                side = max(decode(source.read(planned.name), shaping).pixels.shape[:2])
                break
            except (Broken, MissingFile):
                continue
    return "raw" if side <= _LARGEST_RAW else "jpeg"


def _blocks(planned: Iterator[Planned]) -> Iterator[list[Planned]]:
    while block := list(islice(planned, _BLOCK)):
        yield block


def _in_order(
    work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Work on items in threads, a few ahead, and give the results in the order of the items."""
    threads = 2 * (os.cpu_count() or 1)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > 2 * threads:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()


def _write_quarantine(ledger: Ledger, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for image in ledger.quarantined():
            file.write(image.to_json() + "\n")


def _check_broken(ledger: Ledger, max_broken: float, path: Path) -> None:
    listed, _, broken = ledger.counts()
    if broken > max_broken * listed:
        first = islice(ledger.quarantined(only_broken=True), _SHOWN)
        named = "; ".join(f"{image.name} {image.reason}" for image in first)
        raise ValueError(
            f"{broken} of {listed} images are unusable, more than max_broken {max_broken:g}: "
            f"{named}; all are listed in {path}"
        )


def _summary(source: Source, settings: DataConfig, encoding: str) -> Summary:
    training_side = _shorter_side(settings) if settings.keep_larger else 0
    return Summary(source.classes, encoding, training_side)


def _facts(ledger: Ledger, summary: Summary, quarantine: Path) -> Index:
    """Give the index without shards, after making sure that no class and no split became empty."""
    for row in ledger.rows(with_images=False):
        summary.add(row)
    facts = summary.index()
    why = f"the others are listed in {quarantine}"
    for name, count in zip(facts.classes, facts.splits["train"].counts, strict=True):
        if not count:
            raise ValueError(f"class {name!r} has no training images left; {why}")
    for split, content in facts.splits.items():
        if not content.num_images:
            raise ValueError(f"the {split} split has no images left; {why}")
    return facts


def _check_sum(index: Index, ledger: Ledger) -> None:
    """Make sure that no image got lost."""
    listed, quarantined, _ = ledger.counts()
    written = sum(content.num_images for content in index.splits.values())
    if written + quarantined != listed:
        raise RuntimeError(
            f"of {listed} images {written} were written and {quarantined} put aside; "
            "this is a mistake in the program"
        )


def _figures(index: Index, quarantined: int) -> dict[str, float]:
    counts = {f"{split}_images": content.num_images for split, content in index.splits.items()}
    counts |= {"classes": len(index.classes), "quarantined_images": quarantined}
    return {name: float(count) for name, count in counts.items()}
