"""scripts/fuzz with more examples than fit into a run of all tests."""

from pathlib import Path

import pytest

from fuzz.__main__ import fuzz_bytes, fuzz_routes, row


@pytest.mark.parametrize("with_keys", [False, True])
def test_no_request_of_thousands_breaks_the_service(tmp_path: Path, with_keys: bool) -> None:
    found = row("", fuzz_routes(tmp_path / "stack", examples=20, seed=2, with_keys=with_keys))
    assert found["cases"] > 2000
    assert found["all failures"] == 0, "what failed is printed above"


def test_no_picture_or_form_of_thousands_breaks_the_service() -> None:
    inputs, failed = fuzz_bytes(1000, seed=2)
    assert inputs >= 2000
    assert not failed, "what failed is printed above"
