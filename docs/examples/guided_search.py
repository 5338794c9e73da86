"""A guided beam search without any package, and the program that lets it be tested.

    ctcx conformance --command "python guided_search.py" --operation guided_search --dtype float64

A beam search in which phrases, an n-gram model and a bonus for each label decide which prefixes are
kept and how results are sorted. It is written to be read: a fast one carries the bonus of a prefix
along, and takes back what a phrase has added when the phrase breaks off.
"""

from __future__ import annotations

import json
import math
import sys
from functools import cache

NOTHING = -math.inf


def log_softmax(row):
    top = max(row)
    total = math.fsum(math.exp(x - top) for x in row)
    return [x - top - math.log(total) for x in row]


def log_add(a, b):
    low, high = sorted((a, b))
    return high if low == NOTHING else high + math.log1p(math.exp(low - high))


def bonus_function(problem):
    """Return a function: what labels get besides the logarithm of their probability."""
    begin = len(problem["logits"][0][0])  # the number of classes
    end = begin + 1
    phrases = numbers_of(problem["phrases"], problem["phrase_weights"])
    log_probs = numbers_of(problem["ngrams"], problem["ngram_log_probs"])
    back_offs = numbers_of(problem["ngrams"], problem["ngram_back_offs"])
    order = max(map(len, log_probs), default=0)

    def of_phrases(labels, finished):
        largest = [NOTHING] * len(labels)
        for phrase, weight in phrases.items():
            for start in range(len(labels)):
                there = labels[start : start + len(phrase)]
                # Before the end, a phrase that has begun may still become whole.
                if there == phrase or (not finished and there == phrase[: len(there)]):
                    for i in range(start, start + len(there)):
                        largest[i] = max(largest[i], weight)
        return sum(weight for weight in largest if weight > NOTHING)

    def log_prob(context, label):
        if (*context, label) in log_probs:
            return log_probs[*context, label]
        return back_offs.get(context, 0.0) + log_prob(context[1:], label)

    def of_model(labels, finished):
        said = (begin, *labels, end) if finished else (begin, *labels)
        return sum(log_prob(said[max(0, i - order + 1) : i], said[i]) for i in range(1, len(said)))

    @cache
    def bonus(labels, finished):
        total = of_phrases(labels, finished) + problem["label_bonus"] * len(labels)
        return total + problem["lm_weight"] * of_model(labels, finished) if log_probs else total

    return bonus


def search(logits, blank, width, bonus):
    """Return labels, log-probability and score of the results, the best first."""
    beam = {(): (0.0, NOTHING)}  # paths that end in the blank, and in the last label
    for row in map(log_softmax, logits):
        after = {}
        for prefix, (by_blank, by_label) in beam.items():
            both = log_add(by_blank, by_label)
            add(after, prefix, both + row[blank], NOTHING)
            for label, gain in enumerate(row):
                if label == blank:
                    continue
                is_last = prefix[-1:] == (label,)
                if is_last:
                    add(after, prefix, NOTHING, by_label + gain)
                add(after, (*prefix, label), NOTHING, (by_blank if is_last else both) + gain)
        ranked = sorted(after, key=lambda y: -log_add(*after[y]) - bonus(y, False))
        beam = {prefix: after[prefix] for prefix in ranked[:width]}
    found = [(y, log_add(*ends), log_add(*ends) + bonus(y, True)) for y, ends in beam.items()]
    return sorted((one for one in found if one[1] > NOTHING), key=lambda one: -one[2])


def add(beam, prefix, by_blank, by_label):
    old_blank, old_label = beam.get(prefix, (NOTHING, NOTHING))
    beam[prefix] = log_add(old_blank, by_blank), log_add(old_label, by_label)


def numbers_of(rows, numbers):
    """Return a number for each row of labels; rows are padded with -1."""
    labels = (tuple(label for label in row if label >= 0) for row in rows)
    return dict(zip(labels, numbers, strict=True))


def answer(problem):
    """Return the answer to a problem of the protocol."""
    if problem.get("operation") != "guided_search":
        return {"unsupported": "only guided_search"}
    bonus = bonus_function(problem)
    found = [
        search(logits[:length], problem["blank"], problem["width"], bonus)[: problem["top"]]
        for logits, length in zip(problem["logits"], problem["logit_lengths"], strict=True)
    ]
    return {
        "labels": [[list(labels) for labels, _, _ in row] for row in found],
        "log_probs": [[log_prob for _, log_prob, _ in row] for row in found],
        "scores": [[score for _, _, score in row] for row in found],
    }


if __name__ == "__main__":
    for line in sys.stdin:
        problem = json.loads(line.replace('"-inf"', "-Infinity"))
        print(json.dumps({"id": problem["id"]} | answer(problem)), flush=True)
