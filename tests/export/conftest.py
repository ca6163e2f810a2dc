"""A random model with the vocabulary of large-v3, which tools have built in, and its exports."""

import pytest
import torch

from tests.export.making import make_large_v3_shaped


@pytest.fixture(scope="session")
def large_v3(tmp_path_factory):
    """Folder of a random model of width 64 with 128 mel bins and 51,866 tokens."""
    with torch.no_grad():
        return make_large_v3_shaped(tmp_path_factory.mktemp("large-v3"))
