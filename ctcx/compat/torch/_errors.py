"""Errors that code written for PyTorch catches: those of ctcx, and of PyTorch's classes too."""

from __future__ import annotations

from ctcx._errors import CTCInputError

__all__ = ["CTCInputRuntimeError", "CTCInputTypeError"]


class CTCInputRuntimeError(CTCInputError, RuntimeError):
    """A wrong value, shape, dtype or device, for which PyTorch raises `RuntimeError`."""


class CTCInputTypeError(CTCInputError, TypeError):
    """An argument of a wrong Python type, for which PyTorch raises `TypeError`."""
