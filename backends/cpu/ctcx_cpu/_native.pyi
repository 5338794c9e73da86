from typing import Any

def compute(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    losses: Any,
    gradient: Any,
    weights: Any,
    type: int,  # noqa: A002 - its name in ctcx_cpu.h
    blank: int,
    threads: int,
    /,
) -> None: ...
def shortcut(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    losses: Any,
    gradient: Any,
    weights: Any,
    blank: Any,
    threads: int,
    /,
) -> bool: ...
def occupancies(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    losses: Any,
    classes: Any,
    states: Any,
    type: int,  # noqa: A002 - as in C
    blank: int,
    threads: int,
    /,
) -> None: ...
def align(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    extra: Any,
    states: Any,
    log_probs: Any,
    type: int,  # noqa: A002 - as in C
    blank: int,
    first_blank: int,
    last_blank: int,
    threads: int,
    /,
) -> None: ...
def sample_paths(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    uniforms: Any,
    states: Any,
    type: int,  # noqa: A002 - as in C
    blank: int,
    threads: int,
    /,
) -> None: ...
def greedy(
    logits: Any,
    logit_lengths: Any,
    classes: Any,
    log_probs: Any,
    type: int,  # noqa: A002 - as in C
    blank: int,
    threads: int,
    /,
) -> None: ...
def beam_search(
    logits: Any,
    logit_lengths: Any,
    labels: Any,
    log_probs: Any,
    type: int,  # noqa: A002 - as in C
    blank: int,
    width: int,
    top: int,
    max_classes: int,
    threads: int,
    /,
) -> None: ...
def guided_search(
    logits: Any,
    logit_lengths: Any,
    entry_labels: Any,
    entry_numbers: Any,
    labels: Any,
    numbers: Any,
    type: int,  # noqa: A002 - as in C
    blank: int,
    max_classes: int,
    phrases: object,
    ngrams: object,
    ngrams_weight: float,
    label_bonus: float,
    threads: int,
    /,
) -> None: ...
def phrases(labels: Any, lengths: Any, weights: Any, /) -> object: ...
def ngrams(
    words: Any,
    word_ends: Any,
    tokens: Any,
    token_ends: Any,
    sizes: Any,
    grams: Any,
    log_probs: Any,
    back_offs: Any,
    separator: int,
    order: int,
    /,
) -> object: ...
def instructions() -> str: ...
def version() -> str: ...
def xla_handler() -> object: ...
