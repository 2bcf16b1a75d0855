"""python -m pipelines.local_runner FOLDER PIPELINE ARTIFACTS: run a pipeline by KFP's own runner.

It is a process of its own because the runner keeps its state per process, prints as it likes and
says little about a failure; the command line that starts it watches the steps' events instead.
"""

import json
import sys
import warnings
from pathlib import Path

from kfp import components, local

from components import tracking
from pipelines.graph import read_arguments
from pipelines.workspace import RunFolder


def main(folder: RunFolder, pipeline: str, artifact_root: str) -> None:
    """Run the pipeline inside one parent run of the tracking store."""
    # Images have symbolic names here, which the runner takes for a sign of another language.
    warnings.filterwarnings("ignore", message="You may be attemping to run a task")
    execute = components.load_component_from_file(str(folder.pipeline))
    given = read_arguments(folder.pipeline).items()
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in given}
    tracking.open_pipeline_run(pipeline, folder.run_id, texts, artifact_root=artifact_root)
    status: tracking.Status = "FAILED"
    try:
        runner = local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(folder.artifacts), raise_on_error=True)
        with tracking.write_for_steps(folder.journal):
            execute()
        status = "FINISHED"
    finally:
        tracking.close_pipeline_run(folder.run_id, status)


if __name__ == "__main__":
    main(RunFolder(Path(sys.argv[1])), sys.argv[2], sys.argv[3])
