"""The recipes of the documents, run on a small reviewed store in the order in which they stand."""

import re
from pathlib import Path

import pytest

from curation import export
from tests.curation.review_store import make_review

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(python|sql)\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.S)


def test_recipes_run(tmp_path, open_body, monkeypatch, capsys):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    review = make_review(tmp_path / "lsp", open_body, photos=25)
    assert export.main([str(review.data), "--name", "reviewed"]) == 0
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    results = []
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "docs/recipes.md", "exec"), names)
        else:
            results.append(duckdb.sql(text).fetchall())
    assert names["poses"].shape == (len(review.fit_ids), 21, 3)
    assert len(names["verdicts"]) == len(review.fit_ids) - 4
    assert len(results) == 4
    assert all(results)
    assert {row[0] for row in results[2]} == {"limb_off", "depth_off"}
    out = capsys.readouterr().out
    assert "residual_body" in out
