"""challenge: the end that pipelines share, where a model meets the champion."""

from typing import Any

from components.registry.component import compare_models, promote_model


def challenge(promotion: Any, model: Any, report: Any, **champion: Any) -> None:
    """Add the steps compare-models and promote-model to the pipeline that is being written.

    Args:
        promotion: a PromotionConfig as JSON text, or what stands for it.
        model: checkpoint of the challenger, an output of its step.
        report: its evaluation.
        champion: ``champion=``, an evaluation of the champion on the same images, where there is
            one newer than that it was registered with.
    """
    compared = compare_models(step="compare-models", config=promotion, report=report, **champion)
    compared.set_display_name("compare-models")
    promoted = promote_model(
        step="promote-model",
        config=promotion,
        model=model,
        report=report,
        verdict=compared.outputs["verdict"],
    )
    promoted.set_display_name("promote-model")
    # Both speak with the registry, whose state is no input that a cache could know.
    compared.set_caching_options(False)
    promoted.set_caching_options(False)
