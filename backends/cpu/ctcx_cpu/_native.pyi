from typing import Any

def compute(
    logits: Any,
    labels: Any,
    logit_lengths: Any,
    label_lengths: Any,
    losses: Any,
    gradient: Any,
    type: int,  # noqa: A002 - its name in ctcx_cpu.h
    blank: int,
    threads: int,
    /,
) -> None: ...
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
def instructions() -> str: ...
def version() -> str: ...
def xla_handler() -> object: ...
