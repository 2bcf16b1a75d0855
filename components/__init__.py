"""Everything that runs inside a pipeline step: one room per subject, the path is the import."""
