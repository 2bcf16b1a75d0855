"""Table DEFENCES: model -> model inside a defence, which says how to attack it honestly."""

from components.defences.defended import Defended
from components.defences.gradient_concealment import GradientConcealment
from components.defences.random_resize_pad import RandomResizePad

DEFENCES: dict[str, type[Defended]] = {
    "gradient_concealment": GradientConcealment,
    "random_resize_pad": RandomResizePad,
}
