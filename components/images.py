"""Names of the container images the doors ask for; `compile` maps them to digests."""

CPU = "bartizan-python-cpu"
GPU = "bartizan-python-gpu"
