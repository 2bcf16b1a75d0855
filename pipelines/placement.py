"""Where steps run on a cluster: pools of nodes, and what every pod finds there."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from kfp import dsl, kubernetes
from kfp.dsl import base_component, pipeline_context

from components import cluster, images
from components.config import Config, Range, field_types, unknown
from components.tracking import PIPELINE_RUN
from components.training.launch import NODES, Nodes
from pipelines.closing import close_run

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTP]i?)?")
_LABEL = re.compile(r"[\w./-]+=[\w.-]*")
_TAINT = re.compile(r"(?P<key>[\w./-]+)(=(?P<value>[\w.-]*))?:(?P<effect>[A-Z]\w+)")
_EFFECTS = ("NoSchedule", "NoExecute", "PreferNoSchedule")
_IMAGE = re.compile(r"[\w.-]+(:\d+)?(/[\w.-]+)*@sha256:[0-9a-f]{64}")
_TRAINING = "train-model"
_RESUMABLE = (_TRAINING, "prune-model", "evaluate-robustness")
_FIRST_RETRY = "60s"
_OWN_FIELDS = {
    cluster.POD_NAME: "metadata.name",
    cluster.POD_UID: "metadata.uid",
    cluster.POD_NAMESPACE: "metadata.namespace",
}


@dataclass(frozen=True, kw_only=True)
class Pool(Config):
    """Nodes of one kind, and what a step asks of them.

    Amounts are Kubernetes' own: ``500m`` or ``4`` of CPU, ``16Gi`` of memory.

    Attributes:
        cpu: asked for; a step may use more where the node has it.
        memory: asked for, and the most that a step may use.
        accelerator: resource by which the cluster knows the accelerators.
        accelerators: how many of them a step gets.
        nodes: on how many nodes a training runs at once; above 1 the step makes a TrainJob, whose
            pods ask for what is said here, each.
        selector: ``label=value`` that a node must have.
        tolerations: taints that do not keep a step away, as kubectl writes them:
            ``key=value:effect``, or ``key:effect`` for any value.
        shared_memory: size of /dev/shm, part of the memory; the 64 MiB of a pod that does not say
            are too few for data loaders.
        scratch: size of /tmp, where everything goes that a step writes besides its results.
        scratch_class: storage class of a volume for /tmp; "" takes it from the node's own disk.
        labels: ``label=value`` that the pods get, such as those by which a queue knows its work and
            its priority.
        timeout_seconds: a step that takes longer has failed; 0 lets it.
        retries: how often a step is started again, after a node was taken away or for any other
            failure; what trains, prunes or attacks goes on from its last state.
    """

    cpu: str = "2"
    memory: str = "8Gi"
    accelerator: str = "nvidia.com/gpu"
    accelerators: Annotated[int, Range(at_least=0)] = 0
    nodes: Annotated[int, Range(at_least=1)] = 1
    selector: tuple[str, ...] = ()
    tolerations: tuple[str, ...] = ()
    shared_memory: str = ""
    scratch: str = "20Gi"
    scratch_class: str = ""
    labels: tuple[str, ...] = ()
    timeout_seconds: Annotated[int, Range(at_least=0)] = 0
    retries: Annotated[int, Range(at_least=0)] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cpu", "memory", "shared_memory", "scratch"):
            text = getattr(self, name)
            if not _QUANTITY.fullmatch(text) and (text or name in ("cpu", "memory")):
                raise ValueError(f"{name} must be an amount such as 500m, 4 or 16Gi, got {text!r}")
        for text in (*self.selector, *self.labels):
            if not _LABEL.fullmatch(text):
                raise ValueError(f"a label must be written label=value, got {text!r}")
        for text in self.tolerations:
            taint = _TAINT.fullmatch(text)
            if not taint or taint["effect"] not in _EFFECTS:
                raise ValueError(
                    "a toleration must be written key=value:effect or key:effect, with an effect "
                    f"out of {', '.join(_EFFECTS)}, got {text!r}"
                )


_SMALL = Pool(
    cpu="4",
    memory="16Gi",
    accelerators=1,
    tolerations=("nvidia.com/gpu:NoSchedule",),
    shared_memory="4Gi",
    timeout_seconds=24 * 3600,
)
POOLS = {
    "cpu": Pool(timeout_seconds=24 * 3600),
    "gpu-small": _SMALL,
    "gpu-large": replace(_SMALL, cpu="32", memory="256Gi", accelerators=8, shared_memory="64Gi"),
}
"""Pools by name; a file of one's own changes them and adds others."""


def load_pools(path: Path) -> dict[str, Pool]:
    """Read pools from a YAML or JSON file: names, each with the fields that differ.

    A name of POOLS starts from that pool, any other from a Pool's defaults.

    Raises:
        ValueError: the file holds something else, an unknown field or a wrong value.
    """
    pools = dict(POOLS)
    for name, fields in read_mapping(path).items():
        if not isinstance(fields, Mapping):
            raise ValueError(f"{path}: the pool {name} must be fields with values, got {fields!r}")
        for field in fields:
            if field not in field_types(Pool):
                raise ValueError(f"{path}: {unknown(f'field of {name}', field, field_types(Pool))}")
        try:
            pools[name] = replace(pools.get(name, Pool()), **fields)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from error
    return pools


def load_images(path: Path) -> dict[str, str]:
    """Read which image stands for each symbolic name, as images/build.sh writes it.

    Raises:
        ValueError: a name is missing or unknown, or an image is not named by its digest.
    """
    found, known = read_mapping(path), {images.CPU, images.GPU}
    for name in found:
        if name not in known:
            raise ValueError(f"{path}: {unknown('image', name, known)}")
    for name in sorted(known):
        if not isinstance(found.get(name), str) or not _IMAGE.fullmatch(found[name]):
            raise ValueError(
                f"{path}: {name} must be an image by its digest, such as "
                "registry/bartizan@sha256:<64 digits>"
            )
    return found


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds values by name.

    Raises:
        ValueError: it holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML or JSON: {error}".replace("\n", " ")) from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} must hold values by name, got {values!r:.60}")
    return values


@dataclass(frozen=True)
class Placement:
    """Where the steps of a pipeline run.

    Attributes:
        pools: by the symbolic name of the image that a step asks for, which says whether it wants
            an accelerator.
        images: the image for each symbolic name.
    """

    pools: Mapping[str, Pool]
    images: Mapping[str, str]


def read_placement(image_file: Path, pool_file: Path | None, pool: str) -> Placement:
    """Read where to run: the steps that want an accelerator in a pool by name, the rest in `cpu`.

    Raises:
        ValueError: a file holds something else, or there is no such pool.
    """
    pools = load_pools(pool_file) if pool_file else POOLS
    if pool not in pools:
        raise ValueError(unknown("pool", pool, pools))
    return Placement({images.CPU: pools["cpu"], images.GPU: pools[pool]}, load_images(image_file))


def place(
    pipeline: base_component.BaseComponent, placement: Placement
) -> base_component.BaseComponent:
    """Give the pipeline with every step placed, and with a last one that closes its tracked run.

    A pipeline with loops goes without the last step: Kubeflow Pipelines is reported to mix them up
    (https://github.com/kubeflow/pipelines/issues/12390).
    """
    body = pipeline.pipeline_func

    @functools.wraps(body)
    def placed(*arguments: Any) -> None:
        if _has_loops(pipeline):
            body(*arguments)
        else:
            closing = close_run().set_display_name("close-run").set_caching_options(False)
            with dsl.ExitHandler(closing, name="steps"):
                body(*arguments)
        for task in pipeline_context.Pipeline.get_default_pipeline().tasks.values():
            _place(task, placement)

    decorate = dsl.pipeline(name=pipeline.name, description=pipeline.description)
    return decorate(placed)


def _has_loops(pipeline: base_component.BaseComponent) -> bool:
    spec = pipeline.pipeline_spec
    graphs = [spec.root.dag, *(component.dag for component in spec.components.values())]
    return any(task.WhichOneof("iterator") for dag in graphs for task in dag.tasks.values())


def _place(task: dsl.PipelineTask, placement: Placement) -> None:
    name = task.container_spec.image
    pool = placement.pools[name]
    if task.component_spec.name in _RESUMABLE:
        _keep_state(task)
    if task.component_spec.name == _TRAINING and pool.nodes > 1:
        task.set_env_variable(NODES, _nodes(pool, placement.images[name]).to_json())
        for variable, field in _OWN_FIELDS.items():
            kubernetes.use_field_path_as_env(task, variable, field)
        pool = placement.pools[images.CPU]  # it only watches
    task.set_container_image(placement.images[name])
    _ask_for(task, pool)
    _give_environment(task)


def _ask_for(task: dsl.PipelineTask, pool: Pool) -> None:
    """Say what a pod needs, where it may run, and what happens when it fails."""
    task.set_cpu_request(pool.cpu)
    task.set_memory_request(pool.memory).set_memory_limit(pool.memory)
    if pool.accelerators:
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerators)
    if pool.retries:
        task.set_retry(pool.retries, backoff_duration=_FIRST_RETRY, backoff_factor=2.0)
    for text in pool.selector:
        label, value = text.split("=")
        kubernetes.add_node_selector(task, label, value)
    for text in pool.labels:
        label, value = text.split("=")
        kubernetes.add_pod_label(task, label, value)
    for taint in filter(None, map(_TAINT.fullmatch, pool.tolerations)):
        operator = "Exists" if taint["value"] is None else "Equal"
        kubernetes.add_toleration(task, taint["key"], operator, taint["value"], taint["effect"])
    if pool.timeout_seconds:
        kubernetes.set_timeout(task, pool.timeout_seconds)
    if pool.shared_memory:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", pool.shared_memory)
    if pool.scratch_class:
        modes = ["ReadWriteOnce"]
        kubernetes.add_ephemeral_volume(
            task, "scratch", "/tmp", modes, pool.scratch, pool.scratch_class
        )
    elif pool.scratch:
        kubernetes.empty_dir_mount(task, "scratch", "/tmp", size_limit=pool.scratch)
    kubernetes.set_security_context(task, run_as_non_root=True)


def _give_environment(task: dsl.PipelineTask) -> None:
    """Let a step find its run's id, the addresses it needs, and, by reference, its credentials."""
    kubernetes.use_field_path_as_env(task, PIPELINE_RUN, "metadata.labels['pipeline/runid']")
    for source, keys in cluster.CONFIG_MAPS.items():
        same = {key: key for key in keys}
        kubernetes.use_config_map_as_env(task, source, same, optional=True)
    for source, keys in cluster.SECRETS.items():
        same = {key: key for key in keys}
        kubernetes.use_secret_as_env(task, source, same, optional=True)


def _keep_state(task: dsl.PipelineTask) -> None:
    kubernetes.mount_pvc(task, cluster.STATE_CLAIM, cluster.STATE_FOLDER)
    task.set_env_variable(cluster.STATE, cluster.STATE_FOLDER)


def _nodes(pool: Pool, image: str) -> Nodes:
    return Nodes(
        count=pool.nodes,
        image=image,
        cpu=pool.cpu,
        memory=pool.memory,
        accelerator=pool.accelerator,
        accelerators=pool.accelerators,
        timeout_seconds=pool.timeout_seconds,
    )
