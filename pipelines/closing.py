"""The last step on a cluster, which runs also after a failure: it closes the run in MLflow."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def close_run(status: dsl.PipelineTaskFinalStatus) -> None:
    """End the pipeline's run in the tracking store, and those of steps that died without a word.

    Args:
        status: how the steps ended, which Kubeflow fills in.
    """
    import os

    from components import tracking

    endings: dict[str, tracking.Status] = {"SUCCEEDED": "FINISHED", "CANCELLED": "KILLED"}
    run = os.environ.get(tracking.PIPELINE_RUN, "")
    tracking.close_pipeline_run(run, endings.get(status.state, "FAILED"))
