"""``ctcx backends``: all of them, and what each takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctcx._cli.output import json_text, new_table, show, styled, unwarned
from ctcx._dispatch.report import backends
from ctcx._typing import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctcx._dispatch.report import BackendInfo

__all__ = ["advice", "as_dict", "backends_command"]


def backends_command(
    *, json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False
) -> None:
    """List the backends, in the order in which they are tried."""
    with unwarned():
        infos = backends()
    if json:
        typer.echo(json_text([as_dict(info) for info in infos]))
        return
    table = new_table("backend", "from", "status", "takes", "computes", "can", "priority", "about")
    for info in infos:
        table.add_row(
            info.name,
            info.provenance,
            styled(info.status),
            _takes(info),
            "\n".join(info.operations) or "-",
            "\n".join(_features(info)) or "-",
            str(info.priority) if info.dtypes else "-",
            info.reason or info.summary,
        )
    show(table)


def advice(infos: Iterable[BackendInfo]) -> list[str]:
    """Say how to get a faster backend, where the core is the only one that takes the CPU."""
    if any(info.status == "available" and "cpu" in info.devices for info in infos):
        return []
    how = "pip install ./backends/cpu in a clone of ctcx"
    return [f"Only the core computes on the CPU here. ctcx-cpu is many times as fast: {how}."]


def as_dict(info: BackendInfo) -> dict[str, Any]:
    """Return a backend as plain data, sets as sorted lists."""
    return {
        "name": info.name,
        "provenance": info.provenance,
        "status": info.status,
        "reason": info.reason,
        "namespaces": sorted(info.namespaces),
        "devices": sorted(info.devices),
        "dtypes": sorted(info.dtypes),
        "operations": list(info.operations),
        "features": _features(info),
        "priority": info.priority,
        "opt_in": info.opt_in,
        "summary": info.summary,
        "url": info.url,
    }


def _takes(info: BackendInfo) -> str:
    if not info.dtypes:
        return "-"
    dtypes = ", ".join(dtype for dtype in DTYPES if dtype in info.dtypes)
    return (
        f"{_names(info.namespaces, 'any library')}\n{_names(info.devices, 'any device')}\n{dtypes}"
    )


def _names(names: Iterable[str], every: str) -> str:
    return every if "*" in names else ", ".join(sorted(names))


def _features(info: BackendInfo) -> list[str]:
    return sorted(feature.name for feature in info.features)
