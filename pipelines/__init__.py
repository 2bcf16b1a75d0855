"""Which steps, in which order, where."""
