"""Every snippet of docs/clients.md, as it stands there, against a real service that asks for keys."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import pytest

from harness.pictures import SAMPLES
from harness.stack import ROOT, Stack, running_stack

PAGE = ROOT / "docs" / "clients.md"
FENCE = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_BY = {"python": [sys.executable], "sh": ["bash", "-euo", "pipefail"]}
ADDRESS, KEY = "http://localhost:8000", "YOUR_KEY"


class Snippet(NamedTuple):
    title: str
    language: str
    text: str


def snippets() -> list[Snippet]:
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return [
        Snippet(title, language, text)
        for title, section in zip(parts[1::2], parts[2::2], strict=True)
        for language, text in FENCE.findall(section)
    ]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, str]]:
    """With a key in use."""
    with running_stack(tmp_path_factory.mktemp("clients"), AUTH="auto") as stack:
        command = [sys.executable, "-m", "app.keys", "create", "--name", "ann"]
        said = subprocess.run(command, cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=True)
        yield stack, said.stdout.split()[-1]


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: snippet.title)
def test_a_snippet_makes_what_it_says(snippet: Snippet, service: tuple[Stack, str], tmp_path: Path) -> None:
    stack, key = service
    assert ADDRESS in snippet.text
    script = tmp_path / "snippet"
    script.write_text(snippet.text.replace(ADDRESS, stack.url).replace(KEY, key))
    shutil.copy(SAMPLES / "cat.jpg", tmp_path / "photo.jpg")
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_API_TOKEN"))}
    done = subprocess.run(
        [*RUN_BY[snippet.language], str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = list(tmp_path.glob("*.mp4"))
    assert [path.name for path in made] == re.findall(r"\w+\.mp4", snippet.text)[-1:], done.stdout
    for path in made:
        with av.open(path) as container:
            assert sum(1 for _ in container.decode(video=0)) > 1


def test_each_client_of_the_table_has_a_snippet() -> None:
    table = re.findall(r"^\| \[([^\]]+)\]\(#", PAGE.read_text(), re.MULTILINE)
    assert table
    assert set(table) <= {snippet.title for snippet in snippets()} | {"n8n", "A browser"}
