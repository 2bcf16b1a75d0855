"""Names of the container images the doors ask for; the local runner needs none of them."""

CPU = "bartizan-python-cpu"
GPU = "bartizan-python-gpu"
