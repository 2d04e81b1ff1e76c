"""The locks that the images install from: complete, hashed, and of the very versions that were tested."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parent.parent / "requirements"
IMAGES = ["app", "worker", "svd"]

# Wanted on a GPU's machine or by an older Python only, so the environment that was tested has none of them.
ELSEWHERE = {"async-timeout", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "triton"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)}


def lock(name: str) -> str:
    return (REQUIREMENTS / f"{name}.lock").read_text()


def required(name: str) -> Iterator[str]:
    for line in (REQUIREMENTS / name).read_text().splitlines():
        if line.startswith("-r "):
            yield from required(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            yield normal(re.split(r"[\[=~<> ]", line)[0])


@pytest.mark.parametrize("name", IMAGES)
def test_a_lock_names_the_tested_versions(name: str) -> None:
    tested, locked = pins((REQUIREMENTS / "constraints.txt").read_text()), pins(lock(name))
    assert len(locked) > 20
    assert {package: version for package, version in locked.items() if tested.get(package, version) != version} == {}
    untested = {package for package in locked.keys() - tested.keys() if not package.startswith("nvidia-")}
    # setuptools comes with every environment, so pip does not list it.
    assert untested <= ELSEWHERE | {"setuptools"}


@pytest.mark.parametrize("name", [*IMAGES, "build", "audit"])
def test_a_lock_covers_what_is_required(name: str) -> None:
    assert set(required(f"{name}.txt")) <= pins(lock(name)).keys()


@pytest.mark.parametrize("name", [*IMAGES, "build", "audit"])
def test_every_version_in_a_lock_has_hashes_and_no_place(name: str) -> None:
    text = lock(name)
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(text))
    assert [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_only_the_gpu_workers_lock_holds_torch() -> None:
    assert [name for name in IMAGES if "torch" in pins(lock(name))] == ["svd"]


def test_the_worker_and_the_gpu_worker_share_their_versions() -> None:
    assert pins(lock("worker")).items() <= pins(lock("svd")).items()
