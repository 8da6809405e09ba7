"""Many annotators at once, and a server that is killed meanwhile: the reduced benchmark."""

import pytest

from tests.benchmarks.bench_review import main

NOTHING = {"lost": 0, "unknown": 0, "twice": 0, "too_many_votes": 0, "served_twice": 0,
           "wrong_person": 0}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--postgres",), ("--kills", "1")], ids=str)
def test_nothing_is_lost_and_nothing_counts_twice(more, request):
    if "--postgres" in more:
        request.getfixturevalue("postgres")  # skips where there is none
    command = ["load", "--annotators", "12", "--decisions", "240", "--items", "300"]
    result = main([*command, "--think", "0.2", *more])
    assert result["wrong"] == NOTHING
    assert result["decisions"] >= 240
