"""Door prepare_data: a data set as shards, as a Kubeflow step."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def prepare_data(step: str, config: str, data: Output[Dataset]) -> None:
    """Turn a source into shards.

    Args:
        step: name of the step in the run graph.
        config: a DataConfig as JSON text.
        data: receives the shards, or their index if the settings keep them elsewhere.
    """
    from pathlib import Path

    from components import tracking
    from components.data.config import DataConfig
    from components.data.index import read_index
    from components.data.prepare import prepare

    settings = DataConfig.from_json(config)
    with tracking.step_run(step, "data", settings) as run:
        counts = prepare(settings, Path(data.path), run)
        run.metrics(counts)
    data.metadata.update(counts)
    data.metadata["fingerprint"] = read_index(Path(data.path)).fingerprint
