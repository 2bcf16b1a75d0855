"""Feature pyramid decoder: a network sees an image that its own features have restored."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from components.defences.attachment import (
    find_head,
    find_levels,
    find_normalisation,
    find_places,
    head_parameters,
    survey,
)
from components.defences.defended import Defended, honest_view, is_randomised
from components.defences.denoising import Denoise, Denoising, non_local
from components.defences.lipschitz_head import Bound, bounded_head, check_bound, squash
from components.defences.passing import Parts, Passed, Restored, pass_through
from components.defences.restoration import Restoration
from components.tensors import Classifier, Images, Logits

Views: TypeAlias = tuple[Classifier, ...]
Group: TypeAlias = Literal["front", "restore", "back_only", "head"]

_WIDTH = 256


class FeaturePyramidDecoder(Defended):
    """Restores the image from the network's features, and passes that through the network again.

    Li et al., 2020, https://arxiv.org/abs/2005.02552. The front pass feeds the decoder; what it
    restores, and the non-local mean of the raw image, go through the same trunk again, whose last
    layer is followed by tanh. Features are denoised before and after the finest level, in both
    passes. It is to be trained by `two_phase_losses`; nothing is random in evaluation mode.

    Differs from the paper: goes around any network with blocks, and keeps its activations (the
    published trunks have ELU). What masks gradients is tanh: the honest view leaves it out.

    Args:
        inner: the model behind it.
        width: channels of the decoder; published are 256 for ResNet-101 and 128 for others.
        levels: names of the blocks that the decoder reads; see `find_levels`.
        denoise_at: names of the blocks whose output is denoised, or with ``:input`` behind the
            name what comes into them; empty is the finest level, before and after.
        denoise: how; see `Denoise`.
        denoise_in: which pass.
        middle: of what the non-local mean is added to the restored image: the ``raw`` image, the
            ``restored`` one, or ``none``.
        passes: with 1 there is no back pass, and the decoder only gives a loss.
        restore: without, there is no front pass, and the raw image stands for the restored one.
        trunk: of the back pass: ``shared``; with ``own_norms``, which are BatchNorm's weights and
            running averages; or ``separate``, a copy.
        head: ``kept`` is that of the network; ``pooled`` a new dense layer on the mean of the
            coarsest level.
        bound: of the logits; see `LipschitzHead`.
        lipschitz: see `LipschitzHead`.
        scale: see `LipschitzHead`.
        dropout: before the last layer, in [0, 1); published is 0.5, and none for MNIST.
        restore_space: in which units the image is restored: ``pixel``, or ``normalised``, behind
            the normalisation of the network.
        image_size: height and width of the image by which the blocks are looked up; None tries
            64, 32, 28 and 224.

    Raises:
        ValueError: an option is out of range or has no effect, or the network gives no pyramid.
    """

    def __init__(
        self,
        inner: nn.Module,
        *,
        width: int = _WIDTH,
        levels: Sequence[str] = (),
        denoise_at: Sequence[str] = (),
        denoise: Denoising = "nonlocal",
        denoise_in: Literal["both", "front", "back"] = "both",
        middle: Literal["raw", "restored", "none"] = "raw",
        passes: int = 2,
        restore: bool = True,
        trunk: Literal["shared", "own_norms", "separate"] = "shared",
        head: Literal["kept", "pooled"] = "kept",
        bound: Bound = "tanh",
        lipschitz: float = 1.0,
        scale: float = 1.0,
        dropout: float = 0.0,
        restore_space: Literal["pixel", "normalised"] = "pixel",
        image_size: int | None = None,
    ) -> None:
        super().__init__(inner)
        check_bound(bound, lipschitz, scale)
        _check(inner, width=width, passes=passes, dropout=dropout)
        if (trunk != "shared" or middle != "raw") and not (restore and passes == 2):
            raise ValueError(
                f"trunk {trunk!r} and middle {middle!r} have no effect without restore and 2 passes"
            )
        if not restore and (passes == 1 or width != _WIDTH or restore_space == "normalised"):
            raise ValueError(
                "without restore there are no 1 pass, no width and no restore_space to choose"
            )
        missing = "back" if passes == 1 else "" if restore else "front"
        if denoise_in == missing:
            raise ValueError(f"denoise_in {denoise_in!r} has no effect without a {missing} pass")
        if denoise == "none" and (denoise_in != "both" or denoise_at):
            raise ValueError("denoise_in and denoise_at have no effect where denoise is none")
        self.passes, self.restores = passes, restore
        self.middle, self.denoise_in = middle, denoise_in
        self.bound, self.lipschitz, self.scale = bound, lipschitz, scale
        found = survey(inner, image_size)
        self.levels = find_levels(inner, found, levels)
        self._entrance = find_normalisation(inner) if restore_space == "normalised" else ""
        places = find_places(inner, found, self.levels[0], denoise_at)
        self._places = list(places) if denoise != "none" else []
        self.denoisers = nn.ModuleList(Denoise(places[name], denoise) for name in self._places)
        if restore:
            self.restoration = Restoration(
                [level.shape[0] for level in self.levels],
                width=width,
                image_channels=found.image_shape[0],
                doublings=self.levels[0].doublings,
            )
        self.back = copy.deepcopy(inner) if trunk == "separate" else None
        norms = _norms(inner) if trunk == "own_norms" else []
        self.back_norms = nn.ModuleList(copy.deepcopy(norm) for norm in norms)
        needed = head == "kept" and (dropout > 0 or "spectral" in bound)
        self._head = find_head(inner) if needed else ""
        self.pooled = (
            nn.Linear(self.levels[-1].shape[0], found.num_classes) if head == "pooled" else None
        )
        self.dropout = nn.Dropout(dropout)
        self.to(next(inner.parameters()).device)

    def forward(self, images: Images) -> Logits:
        """Classify."""
        return self.parts(images).logits

    def honest_view(self, draws: int) -> Classifier:
        """Leave tanh out; average log-probabilities over draws if anything inside draws."""
        randomised = is_randomised(self.inner)
        trunks = (self.inner, self.inner if self.back is None else self.back)
        views = tuple(honest_view(trunk, draws=1 if randomised else draws) for trunk in trunks)

        def view(images: Images) -> Logits:
            if not is_randomised(self.inner):  # asked anew: `unmoved` stops what draws meanwhile
                return self.parts(images, views=views).unbounded
            drawn = [self.parts(images, views=views).unbounded for _ in range(draws)]
            return torch.stack([logits.log_softmax(1) for logits in drawn]).mean(0)

        return view

    def parts(self, images: Images, *, entered: bool = False, views: Views = ()) -> Parts:
        """Classify, and keep what was computed.

        Args:
            images: in [0, 1].
            entered: the images are in the units that are restored, such as a restored image.
            views: what calls the trunk in the front pass and in the back pass, instead of itself.
        """
        if not self.restores:
            return self.classify(images, Restored(self.enter(images), images, []), views=views)
        if self.passes == 1:
            replaced = images if entered and self._entrance else None
            passed = self._pass(images, views=views, back=False, stop=False, replaced=replaced)
            front = self._restored(passed)
            return self._finish(passed, front, front.entered)
        return self.classify(
            images, self.restore(images, entered=entered, views=views), views=views
        )

    def enter(self, images: Images) -> Images:
        """Give images of [0, 1] in the units that are restored."""
        return self.inner.get_submodule(self._entrance)(images) if self._entrance else images

    def restore(self, images: Images, *, entered: bool = False, views: Views = ()) -> Restored:
        """Take the front pass; the arguments are those of `parts`.

        Raises:
            ValueError: there is no decoder.
        """
        if not self.restores:
            raise ValueError("there is no decoder that restores; leave restore at true")
        replaced = images if entered and self._entrance else None
        passed = self._pass(images, views=views, back=False, stop=True, replaced=replaced)
        return self._restored(passed)

    def classify(self, images: Images, front: Restored, *, views: Views = ()) -> Parts:
        """Take the back pass.

        Args:
            images: that the front pass had.
            front: what it gave.
            views: as in `parts`.
        """
        middle = front.restored
        if self.middle != "none":
            middle = middle + non_local(front.entered if self.middle == "raw" else front.restored)
        with self._own_norms():
            passed = self._pass(
                images if self._entrance else middle,
                views=views,
                back=True,
                stop=False,
                replaced=middle if self._entrance else None,
            )
        return self._finish(passed, front, middle)

    def renew(self) -> None:
        """Start the back pass's own weights from the front's, once these were loaded."""
        if self.back is not None:
            self.back.load_state_dict(self.inner.state_dict())
        for norm, own in zip(_norms(self.inner), self.back_norms, strict=False):
            own.load_state_dict(norm.state_dict())

    def parameter_groups(self) -> dict[Group, list[nn.Parameter]]:
        """Give all parameters, each in one group: front, restore, back_only and head."""
        groups: dict[Group, list[nn.Parameter]] = {
            "front": [],
            "restore": list(self.restoration.parameters()) if self.restores else [],
            "back_only": [],
            "head": list(self.pooled.parameters()) if self.pooled is not None else [],
        }
        trunk = self.inner if self.back is None else self.back
        if self.pooled is None:
            groups["head"] += head_parameters(trunk)
        taken = {id(parameter) for group in groups.values() for parameter in group}
        back = [*self.back_norms.parameters(), *(self.back.parameters() if self.back else ())]
        groups["back_only"] = [p for p in back if id(p) not in taken]
        taken |= {id(parameter) for parameter in back}
        groups["front"] = [p for p in self.parameters() if id(p) not in taken]
        return groups

    def _pass(
        self,
        images: Images,
        *,
        views: Views,
        back: bool,
        stop: bool,
        replaced: Images | None = None,
    ) -> Passed:
        trunk = self.back if back and self.back is not None else self.inner
        denoised = self.denoise_in in ("both", "back" if back else "front")
        ends = bool(self._head) and not stop
        bounds = ends and "spectral" in self.bound
        head = trunk.get_submodule(self._head) if ends else None
        with bounded_head(head, self.lipschitz) if head and bounds else nullcontext():
            return pass_through(
                trunk,
                views[back] if views else trunk,
                images,
                levels=self.levels,
                denoise=dict(zip(self._places, self.denoisers, strict=True)) if denoised else {},
                entrance=self._entrance,
                replaced=replaced,
                before_head=(self._head, self.dropout) if ends else None,
                stop=stop or self.pooled is not None,
            )

    def _restored(self, passed: Passed) -> Restored:
        features = [passed.features[level.name] for level in self.levels]
        assert passed.entered is not None
        height, width = passed.entered.shape[-2:]
        image = self.restoration(features, (height, width))
        return Restored(passed.entered, image, features)

    def _finish(self, passed: Passed, front: Restored, middle: Images) -> Parts:
        features, logits = [passed.features[level.name] for level in self.levels], passed.logits
        if self.pooled is not None:
            bounds = "spectral" in self.bound
            with bounded_head(self.pooled, self.lipschitz) if bounds else nullcontext():
                logits = self.pooled(self.dropout(features[-1].mean((2, 3))))
        assert logits is not None
        return Parts(squash(logits, self.bound, self.scale), logits, front, middle, features)

    @contextmanager
    def _own_norms(self) -> Iterator[None]:
        """Let each BatchNorm of the trunk be the back pass's own meanwhile."""
        pairs = list(zip(_norms(self.inner), self.back_norms, strict=False))  # or none at all
        try:
            for norm, own in pairs:
                _exchange(norm, own)
            yield
        finally:
            for norm, own in pairs:
                _exchange(norm, own)


def _norms(network: nn.Module) -> list[nn.Module]:
    return [part for part in network.modules() if isinstance(part, _NormBase)]


def _exchange(norm: nn.Module, own: nn.Module) -> None:
    norm._parameters, own._parameters = own._parameters, norm._parameters
    norm._buffers, own._buffers = own._buffers, norm._buffers


def _check(inner: nn.Module, *, width: int, passes: int, dropout: float) -> None:
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if passes not in (1, 2):
        raise ValueError(f"passes must be 1 or 2, got {passes}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if any(isinstance(part, FeaturePyramidDecoder) for part in inner.modules()):
        raise ValueError("the network has a feature pyramid decoder already")
