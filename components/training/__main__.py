"""One training, started by torchrun in several processes or as it is in one.

torchrun --standalone --nproc-per-node 4 -m components.training CONFIG.json DATA TARGET
"""

import argparse
from pathlib import Path

from components.tracking import UNTRACKED
from components.training.config import TrainingConfig
from components.training.train import train


def main() -> None:
    """Read the words of the command line and train."""
    parser = argparse.ArgumentParser(prog="components.training", description=__doc__)
    parser.add_argument("config", type=Path, help="a TrainingConfig as JSON")
    parser.add_argument("data", type=Path, help="folder of shards")
    parser.add_argument("target", type=Path, help="receives the checkpoint")
    parser.add_argument("--initial", type=Path, help="checkpoint to start from")
    parser.add_argument("--state", type=Path, help="where the state of training is kept")
    words = parser.parse_args()
    settings = TrainingConfig.from_json(words.config.read_text(encoding="utf-8"))
    train(
        settings,
        data=words.data,
        target=words.target,
        initial=words.initial,
        state=words.state,
        run=UNTRACKED,
    )


if __name__ == "__main__":
    main()
