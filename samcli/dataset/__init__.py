"""Datasets from records: what is taken, how it is written, and the report. Free of torch and of models."""
