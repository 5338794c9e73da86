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
def instructions() -> str: ...
def version() -> str: ...
def xla_handler() -> object: ...
