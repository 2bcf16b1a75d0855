"""One training, started by torchrun in several processes or as it is in one.

torchrun --standalone --nproc-per-node 4 -m components.training CONFIG.json DATA TARGET
"""

import argparse
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from components.tracking import UNHEARD, UNTRACKED, Run, continued_run
from components.training.config import TrainingConfig
from components.training.train import train


@record  # torchrun reports the error of the first process that fails
def main() -> None:
    """Read the words of the command line and train."""
    parser = argparse.ArgumentParser(prog="components.training", description=__doc__)
    parser.add_argument("config", help="a TrainingConfig as JSON, or the path of a file with it")
    parser.add_argument("data", type=Path, help="folder of shards")
    parser.add_argument("target", type=Path, help="receives the checkpoint")
    parser.add_argument("--initial", type=Path, help="checkpoint to start from")
    parser.add_argument("--state", type=Path, help="where the state of training is kept")
    parser.add_argument("--step", help="whose run goes on here; by default nothing is tracked")
    parser.add_argument("--leash", action="store_true", help="end when the standard input closes")
    words = parser.parse_args()
    if words.leash:
        threading.Thread(target=_end_with_input, daemon=True).start()
    is_text = words.config.startswith("{")
    text = words.config if is_text else Path(words.config).read_text(encoding="utf-8")
    with _run(words.step) as run:
        train(
            TrainingConfig.from_json(text),
            data=words.data,
            target=words.target,
            initial=words.initial,
            state=words.state,
            run=run,
        )


def _run(step: str | None) -> AbstractContextManager[Run]:
    """Let the first process tell for all."""
    if os.environ.get("RANK", "0") != "0":
        return nullcontext(UNHEARD)
    return continued_run(step) if step else nullcontext(UNTRACKED)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # at once: the others may wait for this one, and it for them


if __name__ == "__main__":
    main()
