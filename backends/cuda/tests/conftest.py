"""These tests run kernels: on the CUDA-on-CPU harness, with the Python that its setup.sh makes."""

import importlib.util

import pytest

if importlib.util.find_spec("cuda_on_cpu") is None:
    message = "run these tests with the Python that tests/cuda_on_cpu/setup.sh makes"
    raise pytest.UsageError(message)

pytest_plugins = ["cuda_on_cpu.pytest_plugin"]
