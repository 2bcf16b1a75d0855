"""Table CORRUPTIONS: images -> images that look worse, at five severities."""

from collections.abc import Callable

from components.augmentations.corruptions.blurs import defocus_blur, motion_blur, zoom_blur
from components.augmentations.corruptions.colour import brightness, contrast, saturate
from components.augmentations.corruptions.digital import compress, elastic, pixelate
from components.augmentations.corruptions.glass import glass_blur
from components.augmentations.corruptions.noise import impulse_noise, shot_noise, speckle_noise
from components.augmentations.corruptions.spatter import spatter
from components.augmentations.corruptions.weather import fog, frost, snow
from components.tensors import Images

CORRUPTIONS: dict[str, Callable[..., Images]] = {
    "fog": fog,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "speckle_noise": speckle_noise,
    "glass_blur": glass_blur,
    "defocus_blur": defocus_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "frost": frost,
    "snow": snow,
    "spatter": spatter,
    "contrast": contrast,
    "brightness": brightness,
    "saturate": saturate,
    "compress": compress,
    "pixelate": pixelate,
    "elastic": elastic,
}
