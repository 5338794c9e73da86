"""The front end for pytest: three lines in a plugin's tests, and the whole kit is collected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ctcx._environment import env_count, env_flag
from ctcx.conformance._drawing import DRAW, FAILURES, SEED, THOROUGH, Drawing
from ctcx.conformance._execute import execute
from ctcx.conformance._failures import CheckFailure
from ctcx.conformance._plan import SLOW, CheckPlan, Expectations, make_plan

if TYPE_CHECKING:
    from collections.abc import Collection

    from ctcx.conformance._plan import PlannedCheck

__all__ = ["BackendConformance"]


class BackendConformance:
    """Put one backend through the conformance kit, with pytest.

    Each check becomes a test for each library, device and dtype that the backend declares and that
    is there. Libraries that it declares and that are missing are skipped by name, or fail if
    ``CTCX_TEST_NAMESPACES`` (names separated by commas) requires them. ``CTCX_TEST_SLOW=1`` adds
    the slow checks. ``CTCX_TEST_DRAW=200`` and ``CTCX_TEST_SEED=7`` go before `draw` and `seed`;
    ``CTCX_TEST_THOROUGH=1`` is for a night.

    Attributes
    ----------
    backend : str
        Name of the backend.
    namespaces, devices, dtypes : collection of str or None
        Only these, if given.
    draw : int or None
        How many problems ``check_drawn_problems`` draws for each library, device and dtype (a
        quarter in half precision); None: as many as take some seconds.
    seed : int
        Other seeds draw other problems.
    failures : str
        Folder for fixture files of drawn problems with wrong results, below the current directory.
    expected_failures : dict of str to str
        Failures that are known, ``{"check_x": reason}``: the check fails wherever it is run; or
        ``{"check_x[torch-*-float32]": reason}``: where library, device and dtype match the pattern.
        Strict: one that passes fails, and so does a name that is no check.

    Examples
    --------
    All that a plugin's ``test_conformance.py`` needs:

    >>> from ctcx.conformance import BackendConformance
    >>> class TestCore(BackendConformance):
    ...     backend = "array-api"
    """

    backend: ClassVar[str]
    namespaces: ClassVar[Collection[str] | None] = None
    devices: ClassVar[Collection[str] | None] = None
    dtypes: ClassVar[Collection[str] | None] = None
    draw: ClassVar[int | None] = None
    seed: ClassVar[int] = 0
    failures: ClassVar[str] = FAILURES
    expected_failures: ClassVar[dict[str, str]] = {}

    _made: ClassVar[CheckPlan]

    # pytest must not collect this class itself where it was imported.
    __test__ = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(getattr(cls, "backend", None), str):
            msg = f'class {cls.__name__} must say which backend it tests: backend = "mine"'
            raise TypeError(msg)
        cls.__test__ = True

    @classmethod
    def _plan(cls) -> CheckPlan:
        """Return what is run; made once for each class, when pytest collects it."""
        if "_made" not in cls.__dict__:
            cls._made = make_plan(
                cls.backend,
                namespaces=cls.namespaces,
                devices=cls.devices,
                dtypes=cls.dtypes,
                slow=env_flag(SLOW) or env_flag(THOROUGH),
                drawing=Drawing(
                    count=env_count(DRAW, cls.draw),
                    seed=env_count(SEED, cls.seed) or 0,
                    thorough=env_flag(THOROUGH),
                    folder=cls.failures,
                ),
            )
        return cls._made

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make a test of each planned check (pytest calls this when it collects the class)."""
        if "planned" not in metafunc.fixturenames:
            return
        plan = self._plan()
        # Checks that a backend or a dtype has no part in would only be noise.
        tests: dict[str, PlannedCheck | str] = {
            item.id: item for item in plan.items if item.excuse is None
        }
        tests |= {f"left-out-{what}": f"{what}: {why}" for what, why in plan.not_run.items()}
        metafunc.parametrize("planned", list(tests.values()), ids=list(tests))

    def test_set_up(self) -> None:
        """The run itself is sound: what is required is there, and something is left to run."""
        Expectations(self.expected_failures)
        if problems := self._plan().problems:
            raise CheckFailure("\n".join(problems))

    def test_check(self, planned: PlannedCheck | str) -> None:
        """Run one check, or say why a library, device or dtype is left out."""
        import pytest  # the rest of the kit works without it

        if isinstance(planned, str):
            pytest.skip(planned)
        reason = Expectations(self.expected_failures).reason(planned)
        result = execute(planned, reason)
        if result.status == "skipped":
            pytest.skip(result.message)
        if result.status == "expected-failure":
            pytest.xfail(result.message)
        if result.status in {"failed", "error"}:
            about = f"{result.check}: {planned.check.summary}\n{result.message}"
            if result.provisional:
                pytest.xfail(f"provisional: {about}")
            pytest.fail(about, pytrace=False)
