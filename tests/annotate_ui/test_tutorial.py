"""The tutorial that comes with the page, and a store that grows while the page is open."""

import io
import shutil

import pytest
from PIL import Image

from annotate_ui.review import Review
from annotate_ui.tutorial import built_in_lessons, lessons
from curation.decisions import PART_FLAGS, REASONS
from curation.gold import GoldItem
from tests.review_store import fit_name, make_store


def test_the_built_in_items_teach_both_verdicts():
    found = built_in_lessons()
    assert len(found) == 10
    assert {lesson.gold.verdict for lesson in found} == {"accept", "reject"}
    reasons = {reason for lesson in found for reason in lesson.gold.reasons}
    assert reasons <= set(REASONS) and len(reasons) >= 5
    for lesson in found:
        assert lesson.gold.note and lesson.gold.in_tutorial
        assert bool(lesson.gold.reasons) == (lesson.gold.verdict == "reject")
        assert [error["part"] for error in lesson.errors] == list(PART_FLAGS)
        assert {"photo.jpg", "front.jpg", "side.jpg", "top.jpg"} <= set(lesson.files)
        for name in lesson.files:
            assert min(Image.open(io.BytesIO(lesson.file(name))).size) > 100
        assert lesson.file("points.json") and lesson.file("../lessons.json") is None


@pytest.mark.parametrize("own, built_in", [(0, 10), (3, 7), (12, 0)])
def test_the_owners_items_take_the_places_of_built_in_ones(own, built_in):
    mine = [GoldItem(f"{k}", "accept", in_tutorial=True) for k in range(own)]
    found = lessons(mine)
    assert len(found) == 10
    assert sum(not isinstance(lesson, GoldItem) for lesson in found) == built_in
    assert found[built_in:] == mine[:10]


def test_a_store_that_grows(tmp_path):
    """New fits come into the queue; those that are there keep their rows, compacted or not."""
    make_store(tmp_path / "more", 30, pictures=False)
    make_store(tmp_path / "few", 20, pictures=False)
    folder = tmp_path / "few" / "fits" / "data" / "run=run-1"
    review = Review.open(tmp_path / "few", workers=0)
    try:
        assert review.refresh() == 0
        fit_id = fit_name(7)
        before = review.index.row(fit_id, ["image_id"])
        more = tmp_path / "more" / "fits" / "data" / "run=run-1" / "part-00of01-000001.parquet"
        shutil.copy(more, folder / "part-00of01-000002.parquet")
        assert review.refresh() == 10 and review.refresh() == 0
        assert len(review.index.items) == 30
        (folder / "part-00of01-000001.parquet").unlink()  # one part in the place of two
        assert review.refresh() == 0
        assert review.index.row(fit_id, ["image_id"]) == before
        assert sum(review.queue.counts().values()) == 30
    finally:
        review.close()
