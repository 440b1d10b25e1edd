"""Fixtures that several test files share."""

import signal
from pathlib import Path

import pytest
import torch
from toy import make_data_set

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# A shell starts its background jobs with Ctrl-C ignored, and so would be the scripts that these tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of parity vectors and real clips beside the checkout; tests that need it skip without it."""
    if not (SHARED / "parity").is_dir():
        pytest.skip(f"needs the development data in {SHARED}, which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    return shared / "parity"


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny preprocessed data set and its file lists."""
    return make_data_set(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True, scope="session")
def _two_threads():
    torch.set_num_threads(2)
