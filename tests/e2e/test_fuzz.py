"""A short run of scripts/fuzz. docs/security.md has the figures of a long one; tests/long goes without keys too."""

from pathlib import Path

from fuzz.__main__ import fuzz_routes, row

# Without `coverage`, whose thousands of cases take most of the time: they are for tests/long.
QUICK = ("examples", "fuzzing", "stateful")


def test_no_request_breaks_the_service_or_is_answered_as_the_document_does_not_say(tmp_path: Path) -> None:
    found = row("", fuzz_routes(tmp_path / "stack", examples=6, seed=1, with_keys=True, phases=QUICK))
    assert found["cases"] > 300
    assert found["operations"] >= 39
    assert found["finished tasks"] >= 3, "hardly a request came as far as a worker"
    assert found["all failures"] == 0, "what failed is printed above"
