"""These tests need the environment that setup.sh makes; nothing is skipped for want of it."""

import importlib.util

import pytest

if importlib.util.find_spec("cuda_on_cpu") is None:
    message = "run these tests with the Python that tests/cuda_on_cpu/setup.sh makes"
    raise pytest.UsageError(message)

pytest_plugins = ["cuda_on_cpu.pytest_plugin"]
