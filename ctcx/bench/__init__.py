"""What ``ctcx bench`` is made of: a pytest-benchmark suite, and the reports on its JSON.

:mod:`ctcx.bench.suite` is the suite and :mod:`ctcx.bench.plugin` its options, hooks and fixture;
both ship with ctcx, so that users can measure on their own machines. Implementations run in
processes of their own (:mod:`ctcx.bench._measure.worker`) and take turns
(:mod:`ctcx.bench._measure.schedule`). The reports need nothing but the JSON
(:mod:`ctcx.bench._report.results`).
"""

from __future__ import annotations

__all__: list[str] = []
