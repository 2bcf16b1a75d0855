"""What a user may say on the command line, and every way to say it wrong."""

import json
import re
from dataclasses import replace

import huggingface_hub.constants
import pytest

from components.training.config import TrainingConfig
from pipelines.recipe import Recipe
from pipelines.recipes import RECIPES
from pipelines.settings import check_choices, load_recipe, override

RECIPE = RECIPES["tiny"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_holds_only_what_the_tables_know(name):
    check_choices(RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_travels_as_text(name):
    for section in RECIPES[name].sections().values():
        assert type(section).from_json(section.to_json()) == section


def test_field_of_a_section():
    assert override(RECIPE, "stage_one.epochs=7").stage_one.epochs == 7


def test_arms_of_a_study_are_sections():
    study = RECIPES["part_small"]
    changed = override(override(study, "part.epochs=7"), "study.seeds=[4]")
    assert changed.arms["part"].epochs == 7
    assert {**changed.arms, "part": study.arms["part"]} == study.arms
    items = changed.arguments()["trainings"]
    assert [item["train"] for item in items[:2]] == ["train-adversarial-4", "train-part-4"]
    assert {TrainingConfig.from_json(item["config"]).seed for item in items} == {4}
    everywhere = override(study, "training.epochs=2")
    assert {arm.epochs for arm in everywhere.arms.values()} == {2}


@pytest.mark.parametrize(
    "assignment",
    [
        "data.target=s3://user:planted@bucket/x",
        "data.source.root=s3://user:planted@bucket/x",
        "data.source.root=s3://user:planted/with/slashes@bucket/x",
        "data.source.root=s3:/user:planted@bucket/x",
        "data.image_size=s3://user:planted@bucket/x",
        'data.source={"name": "folder", "root": "https://:planted@host"}',
    ],
)
def test_passwords_are_refused_and_not_repeated(assignment):
    with pytest.raises(ValueError, match=r"^data\..* must not carry a password") as caught:
        override(RECIPE, assignment)
    assert "planted" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "root", ["s3://bucket/7:30/a@b", "http://host:8080/a@b", "models:/digits@champion", "C:/a@b"]
)
def test_what_only_looks_like_a_password_is_taken(root):
    assert override(RECIPE, f"data.source.root={root}").data.source["root"] == root


@pytest.mark.parametrize("name", ["data", "sections", "Two words", "train-it", ""])
def test_an_arm_needs_a_name_that_is_free(name):
    study = RECIPES["part_small"]
    with pytest.raises(ValueError, match="an arm needs a free name"):
        replace(study, arms={name: study.arms["part"]})


def test_seeds_of_a_study_are_its_own():
    with pytest.raises(ValueError, match=r"the seeds of all arms are study\.seeds"):
        override(RECIPES["part_small"], "part.seed=3")
    with pytest.raises(ValueError, match="seeds must be different numbers"):
        override(RECIPES["part_small"], "study.seeds=[1, 1]")


def test_a_room_stands_for_all_its_sections():
    changed = override(RECIPE, "training.epochs=9")
    stages = changed.stage_one, changed.stage_two, changed.adversarial
    assert [stage.epochs for stage in stages] == [9, 9, 9]
    assert changed.pruning == RECIPE.pruning


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.1", 0.1), ("1", 1.0), (" 0.25 ", 0.25)]
)
def test_numbers(text, value):
    assert override(RECIPE, f"evaluation.epsilon={text}").evaluation.epsilon == value


def test_words_choices_and_their_options():
    assert override(RECIPE, "adversarial.optimizer=sgd").adversarial.optimizer == {"name": "sgd"}
    assert override(RECIPE, "stage_one.objective=trades").stage_one.objective == {"name": "trades"}
    changed = override(RECIPE, 'stage_one.augmentations=[{"name": "mixup"}]')
    assert changed.stage_one.augmentations == ({"name": "mixup"},)
    assert override(RECIPE, "pruning.attack.steps=3").pruning.attack["steps"] == 3
    changed = override(RECIPE, "adversarial.objective.attack.steps=4")
    assert changed.adversarial.objective["attack"]["steps"] == 4
    assert changed.adversarial.objective["name"] == "adversarial"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs=1", "section.field=value"),
        ("stage_one.epochs", "section.field=value"),
        ("stage_9.epochs=1", "unknown section 'stage_9', expected one of"),
        ("stage_one.epoch=1", "unknown field of stage_one 'epoch', expected one of"),
        ("stage_one.epochs=many", "stage_one.epochs must be of type int, got 'many'"),
        ("stage_one.epochs=1.5", "stage_one.epochs must be of type int, got 1.5"),
        ("stage_one.epochs=-1", "stage_one.epochs must be at least 0, got -1"),
        (
            "evaluation.epsilon=8",
            "evaluation.epsilon must be at most 1 for linf and pixels in [0, 1], got 8",
        ),
        ("evaluation.epsilon=NaN", "evaluation.epsilon must be finite"),
        ("evaluation.norm=l7", "evaluation.norm must be one of linf, l2, l1, got 'l7'"),
        ("stage_one.epochs.more=1", "no options"),
        ("pruning.attack=7", "pruning.attack must be a word with options"),
    ],
)
def test_wrong_assignments(assignment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        override(RECIPE, assignment)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data.source=moon", "data.source: unknown name 'moon'"),
        ("stage_one.backbone=lenet6", "stage_one.backbone: unknown name 'lenet6'"),
        ('stage_one.backbone={"name": "lenet5", "widths": [1, 2]}', "four positive numbers"),
        ("stage_one.objective=wish", "unknown name 'wish'"),
        ('stage_one.objective={"name": "adversarial"}', "needs the option 'attack'"),
        ("adversarial.objective.attack=pgdd", "adversarial.objective: unknown name 'pgdd'"),
        ('stage_two.defences=["moat"]', "unknown name 'moat'"),
        ('stage_two.defences=[{"name": "random_resize_pad", "min_size": 2}]', "min_size must be"),
        ('stage_one.augmentations=[{"name": "mixup", "colour": 1}]', "no option 'colour'"),
        ("adversarial.selection.steps=0", "steps and restarts must be at least 1"),
        ("pruning.attack.epsilon=8", "epsilon must be in"),
        ("pruning.method=scissors", "pruning.method: unknown name 'scissors'"),
        ('pruning.method={"name": "admm", "sparsity": 2}', "sparsity and tuning_share must lie"),
        ('pruning.method={"name": "gates", "kl_scales": {"conv9": 2}}', "there are no gates"),
        ('pruning.augmentations=["blurry"]', "pruning.augmentations: unknown name 'blurry'"),
        (
            'stage_one.objective={"name": "bayesian", "kl_weight": -1, "attack": '
            '{"name": "fgsm", "epsilon": 0.1}}',
            "kl_weight at least 0",
        ),
        ('evaluation.suite=[{"name": "pgd", "loss": "hope"}]', "unknown loss 'hope'"),
        ('evaluation.suite=[{"name": "pgd", "steps": "ten"}]', "evaluation.suite"),
    ],
)
def test_wrong_choices(assignment, message):
    with pytest.raises(ValueError, match=message):
        check_choices(override(RECIPE, assignment))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            {"name": "timm", "model": "seresnet18", "pretrained": True},
            "no weights for 'seresnet18'",
        ),
        (
            {"name": "convnext_tiny", "pretrained": True, "widths": [8, 8, 8, 8]},
            "fit no other depths and widths",
        ),
        ({"name": "lenet5", "units": {"conv1": 20}}, "units fit no LeNet5"),
    ],
)
def test_backbones_that_would_fail_in_training(backbone, message):
    with pytest.raises(ValueError, match=f"stage_one.backbone: .*{message}"):
        check_choices(override(RECIPE, f"stage_one.backbone={json.dumps(backbone)}"))


def test_weights_are_not_downloaded_to_try_a_backbone(tmp_path, monkeypatch):
    """Without a network or a cache, a download would fail."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for words in ({"name": "convnext_tiny"}, {"name": "timm", "model": "test_vit"}):
        backbone = json.dumps({**words, "pretrained": True})
        check_choices(override(RECIPE, f"stage_one.backbone={backbone}"))


def test_long_attacks_are_tried_briefly():
    """At a million million steps this would not come to an end."""
    long = '[{"name": "pgd", "steps": 1000000000000}, "standard"]'
    check_choices(override(RECIPE, f"evaluation.suite={long}"))


def test_recipe_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from pipelines.recipes import RECIPES\n"
        "RECIPE = replace(RECIPES['tiny'], about='mine')\n"
    )
    assert load_recipe(str(file)).about == "mine"


def test_wrong_recipes(tmp_path):
    with pytest.raises(ValueError, match="unknown recipe 'huge', expected one of"):
        load_recipe("huge")
    with pytest.raises(ValueError, match="there is no recipe file"):
        load_recipe(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=f"must set RECIPE to a {Recipe.__name__}"):
        load_recipe(str(tmp_path / "empty.py"))


def test_arguments_are_plain_text():
    assert all(isinstance(json.loads(text), dict) for text in RECIPE.arguments().values())


def test_a_decoder_and_its_objective_are_tried_together():
    decoder = {"name": "feature_pyramid_decoder", "width": 4, "levels": ["layer1", "layer2"]}
    chosen = {"objective": {"name": "restoration"}, "defences": (decoder,)}
    recipe = replace(RECIPE, stage_one=replace(RECIPE.stage_one, **chosen))
    check_choices(recipe)
    bare = replace(RECIPE, stage_one=replace(RECIPE.stage_one, objective={"name": "restoration"}))
    with pytest.raises(ValueError, match=r"stage_one.objective: .* no feature pyramid decoder"):
        check_choices(bare)
