"""Table DEFENCES: model -> model inside a defence, which says how to attack it honestly."""

from components.defences.bit_depth import BitDepth
from components.defences.defended import Defended
from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder
from components.defences.gradient_concealment import GradientConcealment
from components.defences.lipschitz_head import LipschitzHead
from components.defences.random_resize_pad import RandomResizePad
from components.defences.smoothing import Smoothing

DEFENCES: dict[str, type[Defended]] = {
    "bit_depth": BitDepth,
    "feature_pyramid_decoder": FeaturePyramidDecoder,
    "gradient_concealment": GradientConcealment,
    "lipschitz_head": LipschitzHead,
    "random_resize_pad": RandomResizePad,
    "smoothing": Smoothing,
}
