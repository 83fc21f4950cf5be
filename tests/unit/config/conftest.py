"""What the configuration's tests share: the smallest complete configuration, and the faults of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from manahsm.config.load import load_config
from manahsm.errors import ConfigError

MINIMAL: Mapping[str, Any] = {"vendor": "softhsm", "token_label": "dev"}

Faults = Callable[..., dict[str, str]]


@pytest.fixture
def minimal() -> dict[str, Any]:
    return dict(MINIMAL)


@pytest.fixture
def faults_of() -> Faults:
    """Load what must not load; give the message of each problem by its path."""

    def faults(source: Any, **options: Any) -> dict[str, str]:
        options.setdefault("environ", {})
        with pytest.raises(ConfigError) as caught:
            load_config(source, **options)
        return {problem.path: problem.message for problem in caught.value.problems}

    return faults
