from __future__ import annotations

import os

import pytest
from reference import PACKAGES, Reference, load


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The reference packages; without them the oracle's tests skip, except in CI, where they fail."""
    try:
        return load()
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES or os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{PACKAGES[error.name]} is not installed")
