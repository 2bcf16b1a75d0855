"""Learner: a model on its way, with everything that has to be kept to go on from here."""

import copy
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from components.choose import choose
from components.models.build import Model
from components.objectives import Objective
from components.sharing import SharedStatistics, batch_means
from components.tensors import Images, Targets
from components.training.averaging import Average
from components.training.collapse import Look, collapse
from components.training.config import TrainingConfig
from components.training.optimizers import OPTIMIZERS, grouped
from components.training.processes import Processes
from components.training.schedules import SCHEDULES, Moment


class Learner:
    """Takes steps, keeps the best epoch, and can be put down and taken up again at any batch.

    Args:
        model: on the device to train on.
        objective: what it learns.
        settings: of the stage.
        batches: that an epoch has.
        processes: which train the model together.

    Attributes:
        model: takes the steps.
        epoch: epochs done.
        batch: batches done of the epoch under way.
        kept: scores and number of the best epoch; epoch 0 is the model as it came.
        ended: why training ends before its last epoch; empty as long as it does not.
        history: mean loss and scores of each epoch.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        settings: TrainingConfig,
        batches: int,
        processes: Processes | None = None,
    ) -> None:
        self.model, self._objective = model, objective
        self._settings, self._batches = settings, batches
        self._processes = processes or Processes()
        self._schedule = choose(SCHEDULES, settings.schedule)
        groups = grouped(model, settings)
        self._peaks = [group["lr"] for group in groups]
        self._optimizer = choose(OPTIMIZERS, settings.optimizer)(groups)
        decay = settings.average_decay
        self._average = Average(model, decay) if decay else None
        self.epoch = self.batch = 0
        self.kept: dict[str, float] = {}
        self.ended = ""
        self._look: Look | None = None
        self._best: dict[str, Tensor] = {}
        self._scores: list[float] = []
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._timed_images, self._started, self._speed = 0, time.monotonic(), 0.0

    @property
    def judged(self) -> nn.Module:
        """The model that is validated and kept: the average, where there is one."""
        return self._average.model if self._average else self.model

    @property
    def done(self) -> bool:
        """Whether all epochs are done, or more of them would be in vain."""
        return self.epoch >= self._settings.epochs or bool(self.ended)

    def step(self, images: Images, targets: Targets, *, rows: Tensor, whole: bool = False) -> None:
        """Take a batch, as many times as the objective replays it; nothing waits for the device.

        Args:
            images: float32 in [0, 1], this process's part of the batch.
            targets: class probabilities.
            rows: positions of the images in the training split, on which their chance depends.
            whole: each process has all images of the batch, and none a part of its own.
        """
        share_of_peak = self._share_of_peak()
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share_of_peak
        for _ in range(self._objective.replays):
            self._update(images, targets, rows, whole)
        self._timed_images += len(images)
        self.batch += 1

    def _update(self, images: Images, targets: Targets, rows: Tensor, whole: bool) -> None:
        settings, world = self._settings, self._processes.world
        self._optimizer.zero_grad()
        seed = settings.seed + self.epoch * self._batches + self.batch
        lower = settings.precision == "bfloat16"
        together = SharedStatistics(world if whole else 1) if world > 1 else nullcontext()
        with together, torch.autocast(images.device.type, torch.bfloat16, enabled=lower):
            losses = self._objective(
                self.model, images, targets, seed=seed, rows=rows, epoch=self.epoch
            )
        losses["loss"].backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # In one message after the backward pass, and not while it is under way: the attack before
        # it takes many times as long.
        if world > 1:
            for gradient, mean in zip(gradients, batch_means(gradients, len(images)), strict=True):
                gradient.copy_(mean)
        length = torch.nn.utils.get_total_norm(gradients)
        if settings.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(
                self.model.parameters(), settings.clip_norm, length
            )
        self._optimizer.step()
        if self._average:
            self._average.update(self.model)
        weight = len(images) / self._objective.replays
        for name, value in {**losses, "gradient_norm": length}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * weight
            self._counts[name] = self._counts.get(name, 0.0) + weight

    def watch(self, now: Look) -> None:
        """End training where the model has learnt to withstand one step and nothing else.

        The epoch under way is then not kept.
        """
        reason = collapse(now, self._look)
        self._look, self.ended = now, reason or ""

    def end_batches(self) -> None:
        """Measure the epoch's speed, and refuse to go on with a model that is lost.

        Before it is validated: that takes its time, and may fail for that reason.

        Raises:
            FloatingPointError: as `check`.
        """
        self.check()  # waits for the device
        self._speed = self._timed_images / (time.monotonic() - self._started)

    def check(self) -> None:
        """Refuse to go on with a model that is lost, or to keep its state in a good one's place.

        Raises:
            FloatingPointError: the loss became infinite or not a number.
        """
        loss = float(self._sums.get("loss", 0.0))
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {self.epoch + 1}; lower learning_rate or "
                "epsilon, or set clip_norm"
            )

    def finish_epoch(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Close an epoch: keep the model if it is the best so far.

        Args:
            scores: of the validation split.

        Returns:
            Means over the epoch's images, each over those that have the figure; the learning rate
            of its last step, and its speed.
        """
        device = next(self.model.parameters()).device
        sums = {name: float(total) for name, total in self._sums.items()}
        sums["images_per_second"] = self._speed
        sums = self._processes.add_up(sums, device)
        counts = self._processes.add_up(self._counts, device)
        speed = sums.pop("images_per_second")
        curves = {name: total / counts[name] for name, total in sums.items()}
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        curves |= dict(zip(("learning_rate", "head_learning_rate"), rates, strict=False))
        curves["images_per_second"] = speed
        self.epoch, self.batch, self._sums, self._counts = self.epoch + 1, 0, {}, {}
        clean = scores["validation_clean_accuracy"]
        self._scores.append(scores.get("validation_robust_accuracy", clean))
        self.history.append({"loss": curves["loss"], **scores})
        better = self.kept["epoch"] == 0 or _rank(scores) > _rank(self.kept)
        if better and not self.ended:
            self.keep(scores)
        stale = self.epoch - self.kept["epoch"]
        if 0 < self._settings.patience <= stale and not self.ended:
            self.ended = f"no better epoch for {stale:.0f}"
        return curves

    def keep(self, scores: Mapping[str, float]) -> None:
        """Take the model as it is for the best so far."""
        self.kept = {**scores, "epoch": self.epoch}
        self._best = copy.deepcopy(self.judged.state_dict())

    def begin_epoch(self) -> None:
        """Go into training mode; speed is measured from now on."""
        self.model.train()
        self._timed_images, self._started = 0, time.monotonic()

    def finish(self) -> Model:
        """Give the best model."""
        self.model.load_state_dict(self._best)
        return self.model

    def state(self) -> dict[str, Any]:
        """Give all that decides how training goes on, of all processes, which do so together."""
        own: dict[str, Any] = {"cpu": torch.get_rng_state(), "objective": self._objective.state()}
        if torch.cuda.is_available():
            own["cuda"] = torch.cuda.get_rng_state()
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.model.state_dict() if self._average else None,
            "steps": self._average.steps if self._average else 0,
            "kept": self.kept,
            "best": self._best,
            "scores": self._scores,
            "history": self.history,
            "sums": self._sums,
            "counts": self._counts,
            "own": self._processes.gather(own),
            "look": asdict(self._look) if self._look else None,
            "ended": self.ended,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, in as many processes or others."""
        self.epoch, self.batch, self.kept = state["epoch"], state["batch"], state["kept"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average:
            self._average.model.load_state_dict(state["average"])
            self._average.steps = state["steps"]
        self._best, self._scores = state["best"], state["scores"]
        self.history = state["history"]
        self._sums, self._counts = state["sums"], state["counts"]
        self._look = Look(**state["look"]) if state["look"] else None
        self.ended = state["ended"]
        own = state["own"][self._processes.rank % len(state["own"])]
        self._objective.restore(own["objective"])
        torch.set_rng_state(own["cpu"])
        if torch.cuda.is_available() and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"])

    def _share_of_peak(self) -> float:
        settings, epoch = self._settings, self.epoch + self.batch / self._batches
        share = self._schedule(Moment(epoch, settings.epochs, self._scores))
        if settings.warmup_epochs:
            share *= min(1.0, (epoch + 1 / self._batches) / settings.warmup_epochs)
        return share


def _rank(scores: Mapping[str, float]) -> tuple[float, float]:
    """Robust accuracy chooses; clean accuracy breaks ties, or chooses where nothing attacks."""
    clean = scores["validation_clean_accuracy"]
    return scores.get("validation_robust_accuracy", 0.0), clean
