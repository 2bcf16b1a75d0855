"""Every pod of a compiled pipeline asks for what its pool says, and finds what it needs."""

import json
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from components import cluster, images
from components.training.launch import NODES, Nodes
from pipelines.__main__ import app
from pipelines.placement import POOLS, Placement, Pool, load_images, load_pools
from pipelines.recipes import RECIPES
from tests.cluster.conftest import DIGESTS, compile_once

ATTACKING = {"train-model", "prune-model", "evaluate-robustness"}
PIPELINE_RECIPES = {recipe.pipeline: recipe for recipe in RECIPES.values()}


@pytest.fixture
def compile_in(tmp_path):
    """Compile a pipeline with a pool; give containers, platform and tasks by component."""

    def compiled(pool, recipe=RECIPES["tiny"]):
        target = tmp_path / "pipeline.yaml"
        placement = Placement({images.CPU: POOLS["cpu"], images.GPU: pool}, DIGESTS)
        compile_once(recipe.pipeline, recipe, target, placement)
        spec, platform = yaml.safe_load_all(target.read_text())
        containers = spec["deploymentSpec"]["executors"]
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert containers.keys() == pods.keys()
        tasks = {
            task["componentRef"]["name"].replace("comp-", "exec-"): task
            for graph in [spec["root"], *spec["components"].values()]
            for task in graph.get("dag", {}).get("tasks", {}).values()
        }
        return [(name, c["container"], pods[name], tasks[name]) for name, c in containers.items()]

    return compiled


def kind(executor):
    """Give the component's name, without the number that tells its tasks apart."""
    words = executor.removeprefix("exec-").split("-")
    return "-".join(words[:-1] if words[-1].isdigit() else words)


@pytest.mark.parametrize("name", POOLS)
def test_every_pod_asks_for_what_its_pool_says(compile_in, name):
    for executor, container, pod, task in compile_in(POOLS[name]):
        pool = POOLS[name] if kind(executor) in ATTACKING else POOLS["cpu"]
        asked = container["resources"]
        assert asked["resourceCpuRequest"] == pool.cpu and "resourceCpuLimit" not in asked
        assert asked["resourceMemoryRequest"] == asked["resourceMemoryLimit"] == pool.memory
        accelerator = asked.get("accelerator", {})
        assert accelerator.get("resourceCount", "0") == str(pool.accelerators)
        assert accelerator.get("resourceType", pool.accelerator) == "nvidia.com/gpu"
        mounts = {mount["mountPath"]: mount for mount in pod["emptyDirMounts"]}
        assert mounts["/tmp"]["sizeLimit"] == "20Gi"
        assert mounts.get("/dev/shm", {}).get("sizeLimit", "") == pool.shared_memory
        taints = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert pod.get("tolerations", []) == (taints if pool.accelerators else [])
        assert pod["activeDeadlineSeconds"] == str(pool.timeout_seconds)
        assert task["retryPolicy"]["maxRetryCount"] == pool.retries == 2
        assert pod["securityContext"] == {"runAsNonRoot": True}


def test_the_two_pools_for_accelerators_differ(compile_in):
    counts = [
        {
            container["resources"]["accelerator"]["resourceCount"]
            for _, container, _, _ in compile_in(pool)
            if "accelerator" in container["resources"]
        }
        for pool in (POOLS["gpu-small"], POOLS["gpu-large"])
    ]
    assert counts == [{"1"}, {"8"}]


def test_everything_a_pool_may_say_reaches_the_pod(compile_in):
    pool = Pool(
        accelerator="amd.com/gpu",
        accelerators=2,
        selector=("pool=big", "zone=a"),
        tolerations=("spot=yes:NoExecute", "gpu:PreferNoSchedule"),
        scratch="1Ti",
        scratch_class="fast",
        labels=("kueue.x-k8s.io/queue-name=training",),
        retries=0,
        timeout_seconds=0,
    )
    for executor, container, pod, task in compile_in(pool):
        if kind(executor) not in ATTACKING:
            continue
        assert container["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
        assert pod["nodeSelector"]["labels"] == {"pool": "big", "zone": "a"}
        assert pod["tolerations"] == [
            {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute"},
            {"key": "gpu", "operator": "Exists", "effect": "PreferNoSchedule"},
        ]
        assert pod["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "training"}
        (volume,) = pod["genericEphemeralVolume"]
        assert (volume["mountPath"], volume["size"]) == ("/tmp", "1Ti")
        assert volume["storageClassName"] == "fast"
        assert "activeDeadlineSeconds" not in pod and "retryPolicy" not in task


@pytest.mark.parametrize("pipeline", PIPELINE_RECIPES)
def test_every_pod_finds_its_run_addresses_and_credentials(compile_in, pipeline):
    """Credentials come by reference: by a Secret's name and the name of its key."""
    for executor, container, pod, _ in compile_in(POOLS["gpu-small"], PIPELINE_RECIPES[pipeline]):
        assert {"fieldPath": "metadata.labels['pipeline/runid']", "name": "KFP_RUN_ID"} in pod[
            "fieldPathAsEnv"
        ]
        (addresses,) = pod["configMapAsEnv"]
        assert addresses["configMapName"] == "bartizan-tracking" and addresses["optional"]
        assert {secret["secretName"] for secret in pod["secretAsEnv"]} == set(cluster.SECRETS)
        mounts = [(m["constant"], m["mountPath"]) for m in pod.get("pvcMount", [])]
        resumable = kind(executor) in ATTACKING
        assert mounts == ([("bartizan-state", "/state")] if resumable else [])
        variables = {e["name"]: e["value"] for e in container.get("env", [])}
        assert variables == ({"BARTIZAN_STATE": "/state"} if resumable else {})


@pytest.mark.parametrize("pipeline", PIPELINE_RECIPES)
def test_images_are_digests(compile_in, pipeline):
    for executor, container, _, _ in compile_in(POOLS["cpu"], PIPELINE_RECIPES[pipeline]):
        symbolic = images.GPU if kind(executor) in ATTACKING else container["image"]
        assert container["image"] == DIGESTS.get(symbolic, symbolic)
        assert container["image"] in DIGESTS.values()


@pytest.mark.parametrize("pipeline", PIPELINE_RECIPES)
def test_the_tracked_run_is_closed_however_the_steps_end(compile_in, pipeline, tmp_path):
    """Not where there are loops, which Kubeflow is reported to mix up with a last step."""
    executors = compile_in(POOLS["cpu"], PIPELINE_RECIPES[pipeline])
    closing = [task for name, _, _, task in executors if name == "exec-close-run"]
    loops = "Iterator" in (tmp_path / "pipeline.yaml").read_text()
    assert len(closing) == (0 if loops else 1)
    if loops:
        return
    (task,) = closing
    assert task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert "enableCache" not in task["cachingOptions"]
    (status,) = task["inputs"]["parameters"].values()
    assert "producerTask" in status["taskFinalStatus"]


def test_several_nodes_make_the_training_step_a_launcher(compile_in):
    pool = replace(POOLS["gpu-large"], nodes=3)
    for executor, container, pod, _ in compile_in(pool):
        variables = {e["name"]: e["value"] for e in container.get("env", [])}
        if kind(executor) != "train-model":
            assert NODES not in variables
            continue
        nodes = Nodes.from_json(variables[NODES])
        assert (nodes.count, nodes.accelerators, nodes.image) == (3, 8, DIGESTS[images.GPU])
        assert "accelerator" not in container["resources"]
        fields = {field["name"] for field in pod["fieldPathAsEnv"]}
        assert {cluster.POD_NAME, cluster.POD_UID, cluster.POD_NAMESPACE} <= fields


def test_a_file_changes_pools_and_adds_some(tmp_path):
    file = tmp_path / "pools.yaml"
    file.write_text("gpu-small: {memory: 20Gi}\nmine: {accelerators: 4, selector: [a=b]}\n")
    pools = load_pools(file)
    assert pools["gpu-small"] == replace(POOLS["gpu-small"], memory="20Gi")
    assert pools["mine"] == Pool(accelerators=4, selector=("a=b",))
    assert pools["gpu-large"] == POOLS["gpu-large"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must hold values by name"),
        ("{", "must be YAML or JSON"),
        ("gpu: 4", "the pool gpu must be fields with values, got 4"),
        ("gpu: {cores: 4}", "unknown field of gpu 'cores', expected one of"),
        ("gpu: {memory: 16GB}", "gpu: memory must be an amount such as 500m, 4 or 16Gi"),
        ("gpu: {cpu: ''}", "gpu: cpu must be an amount"),
        ("gpu: {nodes: 0}", "gpu: nodes must be at least 1, got 0"),
        ("gpu: {selector: [a]}", "a label must be written label=value, got 'a'"),
        ("gpu: {tolerations: ['a:Never']}", "a toleration must be written key=value:effect"),
    ],
)
def test_wrong_pools(tmp_path, text, message):
    file = tmp_path / "pools.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_pools(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({images.GPU: None}, "bartizan-python-gpu must be an image by its digest"),
        ({images.CPU: "registry/bartizan:latest"}, "must be an image by its digest"),
        ({images.CPU: f"me:secret@host/b@sha256:{'0' * 64}"}, "must be an image by its digest"),
        ({"python": DIGESTS[images.CPU]}, "unknown image 'python', expected one of"),
    ],
)
def test_wrong_images(tmp_path, change, message):
    file = tmp_path / "images.json"
    file.write_text(json.dumps(DIGESTS | change))
    with pytest.raises(ValueError, match=message):
        load_images(file)


def bartizan(*words):
    return CliRunner().invoke(app, ["compile", "--recipe", "tiny", *map(str, words)])


def test_manifests_for_a_repository(tmp_path, image_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bartizan("--images", image_file, "--manifests", "manifests", "--pool", "cpu")
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "manifests").iterdir()
    pipeline, version = yaml.safe_load_all(file.read_text())
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert pipeline["metadata"] == {"name": "train-robust", "namespace": "bartizan"}
    assert version["metadata"]["name"] == file.stem and version["spec"]["platformSpec"]
    assert version["spec"]["pipelineName"] == "train-robust"
    spec, platform = yaml.safe_load_all((tmp_path / "train_robust.yaml").read_text())
    assert version["spec"]["pipelineSpec"] == spec and version["spec"]["platformSpec"] == platform


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pool", "cpu"], "--pool, --pools and --manifests are for a cluster and need --images"),
        (["--images", "none.json"], "none.json"),
        (["--images", "IMAGES", "--pool", "moon"], "unknown pool 'moon', expected one of"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, message, image_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bartizan(*[image_file if word == "IMAGES" else word for word in words])
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
