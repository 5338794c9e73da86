"""One kernel bows out, the other one fails."""

from ctcx.plugin import Decline


def decline(logits, labels, logit_lengths, label_lengths, *, blank):
    reason = "the moon is not full"
    raise Decline(reason)


def bug(logits, labels, logit_lengths, label_lengths, *, blank):
    msg = "repeated labels"
    raise NotImplementedError(msg)
