"""Train a bidirectional GRU with torch's CTC loss and with ctcx's: change one import.

Run ``python docs/examples/train_torch.py``. It prints the loss of both along the way, then trains
both on batches in which one sequence has too few frames for its labels.
"""

import math

import numpy as np
import torch
from strokes import CLASSES, batch

from ctcx.compat.torch import ctc_loss


class Reader(torch.nn.Module):
    """From features (N, T, 4) to log probabilities (T, N, C)."""

    def __init__(self):
        super().__init__()
        self.recurrent = torch.nn.GRU(4, 24, batch_first=True, bidirectional=True)
        self.output = torch.nn.Linear(48, CLASSES)

    def forward(self, features):
        states, _ = self.recurrent(features)
        return self.output(states).log_softmax(-1).transpose(0, 1)


def train(loss_function, steps=200, *, infeasible=0, seed=0):
    """Loss after each step; the same weights and batches for the same seed."""
    torch.set_num_threads(1)  # for a network this small, more threads are slower
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    curve = []
    for _ in range(steps):
        features, labels, frames, lengths = map(torch.tensor, batch(rng, 8, infeasible=infeasible))
        losses = loss_function(model(features), labels, frames, lengths, reduction="none")
        feasible = losses.detach() < math.inf
        loss = torch.where(feasible, losses, 0.0).sum() / feasible.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def main():
    theirs = train(torch.nn.functional.ctc_loss)
    ours = train(ctc_loss)
    print("step   torch    ctcx")
    for step in (0, 24, 49, 99, 199):
        print(f"{step + 1:4d} {theirs[step]:7.3f} {ours[step]:7.3f}")
    print("With a sequence in each batch that has too few frames, after 10 steps:")
    theirs = train(torch.nn.functional.ctc_loss, 10, infeasible=1)
    ours = train(ctc_loss, 10, infeasible=1)
    print(f"torch {theirs[-1]:.3f}, ctcx {ours[-1]:.3f}")


if __name__ == "__main__":
    main()
