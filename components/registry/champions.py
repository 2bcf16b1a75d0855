"""Who is champion: a list of reigns that grows at its end, which no two processes extend at once.

MLflow moves an alias without asking where it was, so an alias alone cannot tell a promotion that it
comes too late. What MLflow's database refuses is a second experiment of one name: atomically, to
every client, on every kind of store. So a reign is an experiment whose name holds its number. Who
creates number n + 1, after having read number n as the last and its champion as the expected one,
has won; everyone else is refused. A record is complete from the moment it exists, and there is no
lock that a process could die with. Alias and tag only follow: whoever writes them reads the records
once more afterwards, and so puts right what a slower or a dead process has left.

The experiments hold no runs. They are put into MLflow's bin, which takes them out of its lists but
keeps their names taken. After `mlflow gc` has emptied the bin, alias and tag say what they said.
"""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from mlflow import MlflowClient, MlflowException
from mlflow.entities import Experiment, ViewType
from mlflow.entities.model_registry import RegisteredModel

from components.tracking import URI

CHAMPION, CHALLENGER = "champion", "challenger"

HISTORY = "champions"
"""Tag of a registered model: its champions that a rollback knows, the present one last."""

_OF = "bartizan.champion_of"
_MOST_REMEMBERED = 100
_MOST_RECORDS = 1000  # of which anybody is told
_LONGEST_TAG = 4000
_ATTEMPTS = 3


RegistryError = MlflowException
"""What a registry raises that does not answer, or refuses."""


class StaleVerdict(ValueError):
    """A verdict about a champion that is champion no longer."""


class UnknownModel(ValueError):
    """A name under which no model is registered."""


@dataclass(frozen=True, kw_only=True)
class Reign:
    """The time of one champion.

    Attributes:
        number: counts from 1; 0 is the time before anything was recorded.
        champions: versions, the champion last, none for no champion; a promotion adds one, a
            rollback takes one away.
        how: ``promotion``, ``override`` or ``rollback``.
        reason: in words.
    """

    number: int
    champions: tuple[str, ...]
    how: str
    reason: str

    @property
    def champion(self) -> str:
        """The champion's version; empty for none."""
        return self.champions[-1] if self.champions else ""


def registry() -> MlflowClient:
    """Give a client of the model registry.

    Raises:
        ValueError: there is no registry.
    """
    # Without an address MLflow would quietly make a store in the current folder.
    if not os.environ.get(URI):
        raise ValueError(f"{URI} must be set: it is where the model registry is")
    return MlflowClient()


def find_model(name: str) -> RegisteredModel:
    """Give a registered model.

    Raises:
        ValueError: there is no registry, or no such model in it.
    """
    client = registry()
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(model.name for model in client.search_registered_models()) or "none"
        raise UnknownModel(f"there is no registered model {name}; there are {known}") from error


def find_champion(name: str) -> str | None:
    """Give the version of a registered model that is its champion.

    A champion that was deleted gives way to the one before it.

    Raises:
        ValueError: there is no registry.
    """
    try:
        model = find_model(name)
    except UnknownModel:
        return None
    return _present(registry(), model).champion or None


def list_reigns(name: str) -> list[Reign]:
    """Give every reign of a registered model that is on record, the last one first."""
    return [_read(record) for record in _search(registry(), find_model(name))]


def crown(name: str, version: str, *, expected: str, how: str, reason: str) -> Reign:
    """Make a version the champion, if the champion still is who it was thought to be.

    Args:
        name: of the registered model.
        version: of it.
        expected: the champion that the decision was about; empty for none.
        how: ``promotion`` or ``override``.
        reason: in words.

    Raises:
        StaleVerdict: another version has become champion since.
        ValueError: the version is the champion already.
    """
    client, model = registry(), find_model(name)
    present = _present(client, model)
    if present.champion != expected:
        raise _stale(name, version, expected, present)
    if present.champion == version:  # a reign of its own would hide from others that one ended
        raise ValueError(f"{name} {version} is the champion already")
    others = tuple(champion for champion in present.champions if champion != version)
    reign = Reign(number=present.number + 1, champions=(*others, version), how=how, reason=reason)
    begun = _begin(client, model, reign, expected)
    if str(model.aliases.get(CHALLENGER)) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    return begun


def roll_back(name: str, reason: str = "") -> Reign:
    """Make the champion again who was champion before the present one.

    Raises:
        StaleVerdict: another version has become champion meanwhile.
        ValueError: there was no other champion, or none that still exists.
    """
    client, model = registry(), find_model(name)
    present = _present(client, model)
    if len(present.champions) < 2:
        raise ValueError(f"{name} has no earlier champion to go back to")
    reign = Reign(
        number=present.number + 1,
        champions=present.champions[:-1],
        how="rollback",
        reason=reason or f"version {present.champion} gives way to the champion before it",
    )
    return _begin(client, model, reign, present.champion)


def make_challenger(name: str, version: str) -> None:
    """Let the alias of the challenger point to a version."""
    _put(registry().set_registered_model_alias, name, CHALLENGER, version)


def settle(name: str) -> None:
    """Let alias and tag follow the record, where a process died, or a hand moved them."""
    _settle(registry(), find_model(name))


def _begin(client: MlflowClient, model: RegisteredModel, reign: Reign, expected: str) -> Reign:
    """Put a reign on record, unless its number is taken, and let alias and tag follow."""
    tags = {
        _OF: _identity(model),
        HISTORY: " ".join(reign.champions[-_MOST_REMEMBERED:]),
        "how": reign.how,
        "reason": reign.reason[:_LONGEST_TAG],
        "token": secrets.token_hex(16),
    }
    # Padded, so that names sort as their numbers do.
    title = f"champion of {_identity(model)}, number {reign.number:06}"
    try:
        client.create_experiment(title, tags=tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        taken = client.get_experiment_by_name(title)
        # A client that hears no answer asks again, and may be refused because of its own success.
        if taken is None or taken.tags.get("token") != tags["token"]:
            _settle(client, model)
            present = _present(client, model)
            raise _stale(model.name, reign.champion, expected, present) from error
    _settle(client, model)
    return reign


def _settle(client: MlflowClient, model: RegisteredModel) -> None:
    """Let alias and tag follow the last reign, until no later one has begun meanwhile."""
    settled = None
    while (records := _search(client, model, most=1)) and records[0].name != settled:
        with suppress(MlflowException):  # another process was faster
            client.delete_experiment(records[0].experiment_id)
        champions = _existing(client, model, _read(records[0]).champions)
        if champions:
            _put(client.set_registered_model_alias, model.name, CHAMPION, champions[-1])
        _put(client.set_registered_model_tag, model.name, HISTORY, " ".join(champions))
        settled = records[0].name


def _put(write: Callable[..., None], *words: str) -> None:
    """Write an alias or a tag; MLflow refuses one of two processes that are the first to."""
    for attempt in range(_ATTEMPTS):
        try:
            write(*words)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST" or attempt == _ATTEMPTS - 1:
                raise
        else:
            break


def _present(client: MlflowClient, model: RegisteredModel) -> Reign:
    """Give the last reign with those of its champions that still exist."""
    records = _search(client, model, most=1)
    reign = _read(records[0]) if records else _unrecorded(model)
    return replace(reign, champions=_existing(client, model, reign.champions))


def _unrecorded(model: RegisteredModel) -> Reign:
    """Take alias and tag at their word where there is no record."""
    # A local store gives a number where a server gives text.
    champion = str(model.aliases.get(CHAMPION, ""))
    history = tuple(model.tags.get(HISTORY, "").split())
    champions = history if history[-1:] == (champion,) else (champion,)
    return Reign(number=0, champions=champions, how="", reason="")


def _existing(
    client: MlflowClient, model: RegisteredModel, champions: tuple[str, ...]
) -> tuple[str, ...]:
    versions = client.search_model_versions(f"name = '{model.name}'")
    existing = {str(version.version) for version in versions}
    return tuple(champion for champion in champions if champion in existing)


def _search(
    client: MlflowClient, model: RegisteredModel, most: int | None = None
) -> list[Experiment]:
    """Give the records of a registered model, the last one first."""
    return client.search_experiments(
        view_type=ViewType.ALL,
        filter_string=f"tags.`{_OF}` = '{_identity(model)}'",
        order_by=["name DESC"],
        max_results=most or _MOST_RECORDS,
    )


def _read(record: Experiment) -> Reign:
    return Reign(
        number=int(record.name.rpartition(" ")[2]),
        champions=tuple(record.tags[HISTORY].split()),
        how=record.tags["how"],
        reason=record.tags["reason"],
    )


def _identity(model: RegisteredModel) -> str:
    """Tell a registered model from another one that had the same name before it."""
    return f"{model.name} of {model.creation_timestamp}"


def _stale(name: str, version: str, expected: str, present: Reign) -> StaleVerdict:
    return StaleVerdict(
        f"{name} {version} was compared with champion {expected or 'none'}, but by now the "
        f"champion is {present.champion or 'none'}; compare again"
    )
