"""Chains of augmentations by name, ready for a stage's settings: augmentations=chains.PUBLISHED.

All are of Pei et al., 2022, https://arxiv.org/abs/2205.10617, whose code has several. Each image
goes through every operation with the probability beside it, in this order.
"""

from components.config import Choice

_CROP: Choice = {"name": "random_resized_crop"}


def _chain(probabilities: dict[str, float]) -> Choice:
    return {"name": "random_chain", "probabilities": probabilities}


_PUBLISHED = dict.fromkeys(
    (
        "pepper_salt_noise",
        "color_point_noise",
        "gaussian_noise",
        "mosaic",
        "rgb_shuffle",
        "rotate",
        "horizontal_flip",
        "vertical_flip",
        "gaussian_blur",
        "blur",
        "rain",
        "extend",
        "block_shuffle",
        "local_shuffle",
        "random_padding",
        "fog",
        "shot_noise",
        "impulse_noise",
        "speckle_noise",
        "glass_blur",
        "defocus_blur",
        "motion_blur",
        "zoom_blur",
        "frost",
        "snow",
        "spatter",
        "contrast",
        "brightness",
        "saturate",
        "compress",
        "pixelate",
        "elastic",
    ),
    0.05,
)

# The final code's 32 gates: 1.6 operations per image, and none for one image in five.
PUBLISHED: tuple[Choice, ...] = (_CROP, _chain(_PUBLISHED))

# The challenge's first phase, whose best probabilities differ by operation; no frost.
_FIRST_PHASE = {
    **dict.fromkeys(("pepper_salt_noise", "color_point_noise", "gaussian_noise", "mosaic"), 0.1),
    **dict.fromkeys(("rgb_shuffle", "rotate"), 0.05),
    "horizontal_flip": 0.1,
    "vertical_flip": 0.01,
    **dict.fromkeys(("gaussian_blur", "blur"), 0.001),
    "rain": 0.05,
    "extend": 0.01,
    "block_shuffle": 0.05,
    **dict.fromkeys(("local_shuffle", "random_padding"), 0.01),
    "fog": 0.05,
    **dict.fromkeys(("shot_noise", "impulse_noise", "speckle_noise", "glass_blur"), 0.1),
    **dict.fromkeys(("defocus_blur", "motion_blur", "zoom_blur", "snow", "spatter"), 0.1),
    **dict.fromkeys(("contrast", "brightness", "saturate"), 0.05),
    "compress": 0.01,
    **dict.fromkeys(("pixelate", "elastic"), 0.1),
}
FIRST_PHASE: tuple[Choice, ...] = (_CROP, _chain(_FIRST_PHASE))

# Before there were corruptions. Only ranges are known, "rest 0.01 to 0.1", so most values are
# picked from within them.
BEFORE_CORRUPTIONS: tuple[Choice, ...] = (
    _chain(
        {
            "random_cut": 0.1,  # stretched back to the image's size, as its resize to 224 did
            **dict.fromkeys(("pepper_salt_noise", "color_point_noise", "gaussian_noise"), 0.15),
            "mosaic": 0.15,
            **dict.fromkeys(("rgb_shuffle", "rotate", "horizontal_flip"), 0.05),
            "vertical_flip": 0.01,
            **dict.fromkeys(("gaussian_blur", "blur", "rain", "extend"), 0.05),
            **dict.fromkeys(("block_shuffle", "local_shuffle"), 0.05),
            "random_padding": 0.1,
        }
    ),
)
