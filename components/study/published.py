"""The tables of ANP-VS as its authors published them."""

MODES = {
    "standard": "Standard",
    "bp": "BP",
    "at": "AT",
    "at_vs": "AT-VS",
    "at_bnn": "AT BNN",
    "pretrained_at": "Pretrained AT",
    "admm": "ADMM",
    "trades": "TRADES",
    "anp": "ANP",
    "anp_vs": "ANP-VS",
}
"""The modes and their names in print; AT-VS and ANP are ablations that the tables leave out."""

COLUMNS = (
    "clean_accuracy",
    "white_box_accuracy",
    "black_box_accuracy",
    "white_box_vulnerability",
    "black_box_vulnerability",
    "memory_percent",
    "flops_ratio",
    "sparsity_percent",
)
"""The published columns; accuracies are shares here and percentages there."""

SOURCE = (
    "the tables on the front page of Madaan, Shin and Hwang, 2020, "
    "https://github.com/divyam3897/ANP_VS, means of five runs"
)

PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "mnist": {
        "standard": (99.29, 0.00, 8.02, 0.129, 0.113, 100.0, 1.00, 0.00),
        "bp": (99.34, 0.00, 12.99, 0.091, 0.078, 4.14, 9.68, 83.48),
        "at": (99.14, 88.03, 94.18, 0.045, 0.040, 100.0, 1.00, 0.00),
        "at_bnn": (99.16, 88.44, 94.87, 0.364, 0.199, 200.0, 0.50, 0.00),
        "pretrained_at": (99.18, 88.26, 94.49, 0.412, 0.381, 100.0, 1.00, 0.00),
        "admm": (99.01, 88.47, 94.61, 0.041, 0.038, 100.0, 1.00, 80.00),
        "trades": (99.07, 89.67, 95.04, 0.037, 0.033, 100.0, 1.00, 0.00),
        "anp_vs": (99.05, 91.31, 95.43, 0.017, 0.015, 6.81, 10.57, 84.16),
    },
    "cifar10": {
        "standard": (92.76, 13.79, 41.65, 0.077, 0.065, 100.0, 1.00, 0.00),
        "bp": (92.91, 14.30, 42.88, 0.037, 0.033, 12.41, 2.34, 75.92),
        "at": (87.50, 49.85, 63.70, 0.050, 0.047, 100.0, 1.00, 0.00),
        "at_bnn": (86.69, 51.87, 64.92, 0.267, 0.238, 200.0, 0.50, 0.00),
        "pretrained_at": (87.50, 52.25, 66.10, 0.041, 0.036, 100.0, 1.00, 0.00),
        "admm": (78.15, 47.37, 62.15, 0.034, 0.030, 100.0, 1.00, 75.00),
        "trades": (80.33, 52.08, 64.80, 0.045, 0.042, 100.0, 1.00, 0.00),
        "anp_vs": (88.18, 56.21, 71.44, 0.019, 0.016, 12.27, 2.41, 76.53),
    },
    "cifar100": {
        "standard": (67.44, 2.81, 14.94, 0.143, 0.119, 100.0, 1.00, 0.00),
        "bp": (69.40, 3.12, 16.39, 0.067, 0.059, 18.59, 1.95, 63.48),
        "at": (57.79, 19.07, 32.47, 0.079, 0.071, 100.0, 1.00, 0.00),
        "at_bnn": (53.75, 19.40, 30.38, 0.446, 0.385, 200.0, 0.50, 0.00),
        "pretrained_at": (57.14, 19.86, 35.42, 0.071, 0.065, 100.0, 1.00, 0.00),
        "admm": (52.52, 19.65, 31.30, 0.060, 0.056, 100.0, 1.00, 75.00),
        "trades": (56.70, 21.21, 32.81, 0.065, 0.060, 100.0, 1.00, 0.00),
        "anp_vs": (59.15, 22.35, 37.01, 0.035, 0.030, 16.74, 2.02, 66.80),
    },
}
"""By data set and mode, in the order of COLUMNS."""
