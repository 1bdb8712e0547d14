"""One process that forks, for all tests that kill or fill disks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()
