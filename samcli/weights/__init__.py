"""Checkpoints: the table of known ones, getting and verifying them, and loading them strictly and safely.

Only `pull` uses the network.
"""

from samcli.weights.download import Progress, pull
from samcli.weights.files import Installed, Verified, find, home, installed, path, sha256_of, verify
from samcli.weights.load import LoadedHead, LoadedSam, load_salient, load_sam, salient_sha256
from samcli.weights.table import (
    DEFAULT_DETECTOR,
    DEFAULT_MODEL,
    DETECTOR_VARIABLE,
    DETECTORS,
    MODELS,
    SALIENT_FILE,
    SUFFIXES,
    DetectorSpec,
    ModelSpec,
    Spec,
    all_specs,
    format_size,
    resolve,
    resolve_detector,
    specs_of,
)

__all__ = [
    "DEFAULT_DETECTOR",
    "DEFAULT_MODEL",
    "DETECTORS",
    "DETECTOR_VARIABLE",
    "MODELS",
    "SALIENT_FILE",
    "SUFFIXES",
    "DetectorSpec",
    "Installed",
    "LoadedHead",
    "LoadedSam",
    "ModelSpec",
    "Progress",
    "Spec",
    "Verified",
    "all_specs",
    "find",
    "format_size",
    "home",
    "installed",
    "load_salient",
    "load_sam",
    "path",
    "pull",
    "resolve",
    "resolve_detector",
    "salient_sha256",
    "sha256_of",
    "specs_of",
    "verify",
]
