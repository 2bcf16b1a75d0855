"""Runs and curves in MLflow, and the progress of a step; without a server it says so once."""
