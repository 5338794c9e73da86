"""Zeros of the right shape: what is tested with it is only that it was called."""

import numpy as np


def loss(logits, labels, logit_lengths, label_lengths, *, blank):
    return np.zeros(logits.shape[0], dtype=logits.dtype)


def loss_and_grad(logits, labels, logit_lengths, label_lengths, *, blank):
    return np.zeros(logits.shape[0], dtype=logits.dtype), np.zeros_like(logits)


def bound(logits, labels, logit_lengths, label_lengths, *, blank):
    return np.zeros_like(logits)
