"""What a champion has not learnt yet, asked of a real store; models fetched from it and judged."""

import json
from dataclasses import replace

import pytest

from components import tracking
from components.data.index import Index
from components.models.checkpoint import WORDS, hash_checkpoint, read_provenance
from components.registry.champions import StaleVerdict
from components.registry.config import FetchConfig, PromotionConfig, RenewalConfig
from components.registry.fetch import fetch
from components.registry.models import judge
from components.registry.novelty import decide_renewal
from components.registry.promote import promote
from components.registry.renewal import load_renewal, save_renewal
from components.registry.verdict import save_verdict
from components.training.config import TrainingConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*An input example was not provided")

PROMOTION = PromotionConfig(model_name="digits")
TRAINING = TrainingConfig(backbone={"name": "lenet5"}, objective={"name": "cross_entropy"})
# Of the images that make_challenger's models are for.
INDEX = Index(
    classes=tuple("0123456789"),
    image_shape=(1, 28, 28),
    mean=(0.1,),
    deviation=(0.3,),
    splits={},
    shards=(),
)
OTHER_DATA = replace(INDEX, mean=(0.2,))


def learn(challenger, index, initial=None):
    """Let a checkpoint and its report say that they come from data and TRAINING."""
    words = json.loads((challenger.checkpoint / WORDS).read_text())
    settings = json.loads(replace(TRAINING, backbone=None).to_json())
    words["provenance"] = {"stage": "train", "data": index.fingerprint, "settings": settings}
    words["provenance"] |= {"initial": initial} if initial else {}
    (challenger.checkpoint / WORDS).write_text(json.dumps(words))
    report = json.loads((challenger.report / "report.json").read_text())
    report["data"]["fingerprint"] = index.fingerprint
    (challenger.report / "report.json").write_text(json.dumps(report))
    return challenger


def challenge(challenger, again=None):
    verdict = judge(PROMOTION, challenger.report, again)
    save_verdict(verdict, challenger.verdict)
    with tracking.step_run("promote-model", "promotion", PROMOTION):
        promote(PROMOTION, **vars(challenger))
    return verdict


def decide(training=TRAINING, index=INDEX, start="champion"):
    return decide_renewal(RenewalConfig(start=start), "digits", training, index)


@pytest.mark.usefixtures("store")
def test_only_what_is_new_is_trained(make_challenger, tmp_path):
    assert decide().action == "first"
    assert challenge(learn(make_challenger("one"), INDEX)).promoted

    known = decide()
    assert known.action == "nothing"
    assert str(known).startswith("nothing to do: the champion, version 1 of digits, has already")
    assert decide(start="scratch") == known
    assert decide(replace(TRAINING, state_seconds=1.0)) == known
    save_renewal(known, tmp_path / "renewal")
    assert load_renewal(tmp_path / "renewal") == known

    data = decide(index=OTHER_DATA)
    assert data.action == "onwards" and OTHER_DATA.fingerprint[:12] in data.reason
    assert decide(index=OTHER_DATA, start="scratch").action == "afresh"
    settings = decide(replace(TRAINING, epochs=3, seed=7))
    assert settings.action == "onwards"
    assert "epochs 3 instead of 20, seed 7 instead of 0" in settings.reason
    # The champion's own, narrower widths are those of a pruned model.
    assert decide(replace(TRAINING, backbone={"name": "vgg16"})).action == "afresh"
    other_classes = replace(INDEX, classes=("cat", "dog"))
    assert decide(index=other_classes).action == "first"


@pytest.mark.usefixtures("store")
def test_what_was_refused_is_not_trained_again(make_challenger):
    champion = make_challenger("one", 0.5)
    challenge(learn(champion, INDEX))
    worse = learn(
        make_challenger("two", 0.4, seed=1), OTHER_DATA, hash_checkpoint(champion.checkpoint)
    )
    assert not challenge(worse).promoted
    tried = decide(index=OTHER_DATA)
    assert tried.action == "nothing" and "version 2 of digits, which was refused," in tried.reason
    assert decide(index=OTHER_DATA, start="scratch").action == "afresh"


@pytest.mark.usefixtures("store")
def test_the_champion_is_judged_by_a_later_report_on_itself(make_challenger):
    champion = make_challenger("one", 0.5)
    challenge(learn(champion, INDEX))
    better = learn(make_challenger("two", 0.7, seed=1), OTHER_DATA)
    assert "was measured on the data" in str(judge(PROMOTION, better.report))
    again = learn(make_challenger("one", 0.6), OTHER_DATA).report
    decided = judge(PROMOTION, better.report, again)
    assert decided.promoted and decided.gain == pytest.approx(0.1)
    assert decided.champion_version == "1"
    with pytest.raises(StaleVerdict, match="is not version 1 of digits"):
        judge(PROMOTION, better.report, better.report)


@pytest.mark.usefixtures("store")
def test_a_fetched_model_is_called_by_its_address(make_challenger, tmp_path):
    one = make_challenger("one")
    challenge(one)
    fetch(FetchConfig(model="models:/digits@champion"), tmp_path / "registered")
    assert hash_checkpoint(tmp_path / "registered") == hash_checkpoint(one.checkpoint)
    assert read_provenance(tmp_path / "registered")["stage"] == "models:/digits/1"
    fetch(FetchConfig(model=str(one.checkpoint)), tmp_path / "copied")
    assert read_provenance(tmp_path / "copied") == {"stage": "one"}
    with pytest.raises(ValueError, match="digits has no version 7; it has 1, champion"):
        fetch(FetchConfig(model="models:/digits/7"), tmp_path / "none")
    with pytest.raises(ValueError, match="there is no checkpoint in nowhere"):
        fetch(FetchConfig(model="nowhere"), tmp_path / "none")


@pytest.mark.parametrize("model", ["", "models:/", "models:/digits", "models:digits@champion"])
def test_wrong_addresses_are_refused(model):
    with pytest.raises(ValueError, match="model must be models:/name@alias"):
        FetchConfig(model=model)
