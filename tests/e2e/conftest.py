from collections.abc import Iterator

import pytest

from harness.stack import Stack, restored, running_stack


@pytest.fixture(scope="module")
def one_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def stack(one_stack: Stack) -> Iterator[Stack]:
    with restored(one_stack) as stack:
        yield stack
