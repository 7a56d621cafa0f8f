"""Figures of a model on datasets with ground truth, by the protocols of the SAM and SegInW papers."""
