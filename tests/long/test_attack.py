"""Every attack of scripts/attack at its full size; tests/e2e has some of them, a tenth as large."""

from pathlib import Path

import pytest

from attack.scenarios import SCENARIOS
from attack.trial import Size, service, try_out


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_attack_by_one_key_keeps_another_out_or_leaves_anything(tmp_path: Path, scenario: str) -> None:
    with service(tmp_path) as stack:
        assert try_out(stack, scenario, Size(seconds=10, look=3)).broken == []
