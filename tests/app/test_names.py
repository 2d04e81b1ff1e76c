"""What a real name server may answer to the system's resolver, in a network namespace of its own."""

import json
import subprocess
import sys

import pytest

from harness.name_server import ZONE
from harness.stack import ROOT

FORBIDDEN = {"inner", "mixed", "link", "wrapped", "loopback", "alias-to-inner", "many-and-inner"}
PUBLIC = {"public", "many"}  # to which a namespace without a way out cannot connect


def works() -> bool:
    return (
        subprocess.run(["unshare", "-rnm", "mount", "--bind", "/etc/hosts", "/etc/hosts"], check=False).returncode == 0
    )


@pytest.fixture(scope="module")
def told() -> dict[str, list[str]]:
    """By name, what came of a picture there, and of a second one."""
    if not works():
        pytest.skip("needs unshare, and the right to make namespaces")
    command = ["unshare", "-rnm", sys.executable, "-m", "harness.name_server"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, list[str]] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", sorted({name.partition(".")[0] for name in ZONE} - {"changes"}))
def test_whatever_a_name_server_answers_the_caller_is_told_a_code(told: dict[str, list[str]], name: str) -> None:
    first, second = told[f"{name}.example"]
    assert first == second
    if name in FORBIDDEN:
        assert first.startswith("destination_forbidden: image_url must not lead to ")
    else:
        reason = "the connection failed (ConnectError)" if name in PUBLIC else "its host has no address"
        assert first == f"fetch_failed: image_url could not be fetched: {reason}"


def test_an_address_is_judged_each_time(told: dict[str, list[str]]) -> None:
    first, second = told["changes.example"]
    assert first == "fetch_failed: image_url could not be fetched: the connection failed (ConnectError)"
    assert second.startswith("destination_forbidden: ")
