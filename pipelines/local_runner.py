"""python -m pipelines.local_runner FOLDER: execute a run folder's pipeline with KFP's own runner.

It is a process of its own because the runner keeps its state per process, prints as it likes and
says little about a failure; the command line that starts it watches the steps' events instead.
"""

import sys
import warnings
from pathlib import Path

from kfp import components, local

from components import tracking
from pipelines.workspace import RunFolder


def main(folder: RunFolder, pipeline: str, artifact_root: str) -> None:
    """Run the pipeline inside one parent run of the tracking store."""
    # Images have symbolic names here, which the runner takes for a sign of another language.
    warnings.filterwarnings("ignore", message="You may be attemping to run a task")
    execute = components.load_component_from_file(str(folder.pipeline))
    tracking.open_pipeline_run(pipeline, folder.run_id, artifact_root=artifact_root)
    try:
        runner = local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(folder.artifacts), raise_on_error=True)
        execute()
    except BaseException:
        tracking.close_pipeline_run(folder.run_id, "FAILED")
        raise
    tracking.close_pipeline_run(folder.run_id, "FINISHED")


if __name__ == "__main__":
    main(RunFolder(Path(sys.argv[1])), sys.argv[2], sys.argv[3])
