"""The list of mutations still fits the code. scripts/mutate runs them."""

import re
from collections import Counter

import pytest

from mutate.mutations import ROOT, Mutation, read_mutations

MUTATIONS = read_mutations()


def test_each_mutation_has_a_name_of_its_own() -> None:
    assert MUTATIONS
    assert [name for name, count in Counter(mutation.name for mutation in MUTATIONS).items() if count > 1] == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_its_file_and_names_tests_that_there_are(mutation: Mutation) -> None:
    mutated = mutation.applied()
    assert mutated != (ROOT / mutation.file).read_text()
    if mutation.file.endswith(".py"):
        compile(mutated, mutation.file, "exec")
    assert mutation.tests
    for test in mutation.tests:
        path, _, name = test.partition("::")
        assert not name or re.search(rf"def {name.partition('[')[0]}\(", (ROOT / path).read_text()), test
        assert (ROOT / path).is_file()
