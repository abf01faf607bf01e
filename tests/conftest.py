"""Fixtures; and Hypothesis draws the same examples for everyone, with `pytest --hypothesis-profile=search` many new ones."""

import pytest
from hypothesis import HealthCheck, settings

slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile("same", max_examples=300, derandomize=True, deadline=None, suppress_health_check=slow)
settings.register_profile("search", max_examples=20_000, deadline=None, suppress_health_check=slow)
settings.load_profile("same")


@pytest.fixture(scope="module")
def one_thread():
    """Make torch sum in one order, on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
