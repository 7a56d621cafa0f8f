"""Detectors: from words to boxes. No SAM inside."""
