import time
from urllib.parse import parse_qs, urlsplit

import pytest

from core.links import opens, signed

SECRET = b"s" * 32
PATH = "/results/01a1fd3450027302a9e88e163fd55fdb"


def parts(link: str) -> tuple[str, str, str]:
    split = urlsplit(link)
    query = parse_qs(split.query)
    return split.path, query["expires"][0], query["signature"][0]


def test_a_link_opens_what_it_was_made_for() -> None:
    path, expires, signature = parts(signed(PATH, SECRET, 60))
    assert path == PATH
    assert 0 < int(expires) - time.time() <= 60
    assert opens(path, expires, signature, SECRET)


def test_a_link_opens_nothing_else_and_not_for_longer() -> None:
    path, expires, signature = parts(signed(PATH, SECRET, 60))
    assert not opens(f"{path}/thumbnail", expires, signature, SECRET)
    assert not opens(path.replace("01a1", "01a2"), expires, signature, SECRET)
    assert not opens(path, str(int(expires) + 1), signature, SECRET)
    assert not opens(path, expires, signature, b"t" * 32)


def test_a_link_ends() -> None:
    path, expires, signature = parts(signed(PATH, SECRET, -1))
    assert not opens(path, expires, signature, SECRET)


@pytest.mark.parametrize(("expires", "signature"), [("", ""), ("x", "é"), ("9" * 5000, "a"), ("-1", "=")])
def test_nonsense_opens_nothing(expires: str, signature: str) -> None:
    assert not opens(PATH, expires, signature, SECRET)
