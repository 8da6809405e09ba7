"""The commands on a small reviewed store: export, import, stats, triage, rules, report."""

import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation import export, import_fits, rules, stats, triage_report
from curation.decisions import Decision, DecisionStore, default_url
from curation.serve_report import make_server
from curation.store import FitStore
from curation.verdicts import find_verdicts, open_decisions
from tests.curation.review_store import make_review


@pytest.fixture(scope="module")
def review(tmp_path_factory, open_body):
    return make_review(tmp_path_factory.mktemp("review") / "photos", open_body)


def run(module, capsys, *arguments):
    status = module.main([str(a) for a in arguments])
    out = capsys.readouterr()
    assert status == 0, out.err
    return json.loads(out.out.splitlines()[-1]), out.out


def test_what_is_exported_is_what_was_accepted(review, capsys):
    summary, _ = run(export, capsys, review.data)
    folder = review.data / "exports" / "run-1"
    tables = {p.stem: pq.read_table(p) for p in folder.glob("*.parquet")}
    verdicts = find_verdicts(open_decisions(default_url(review.store.root)))
    accepted = {f for f, v in zip(verdicts.fit_id, verdicts.verdict, strict=True) if v == "accept"}
    found = [f for t in tables.values() for f in t["fit_id"].to_pylist()]
    assert set(found) == accepted
    assert len(found) == len(accepted) == summary["fits"]
    assert not accepted & set(review.fit_ids[-4:])  # nobody looked at those
    for table in tables.values():
        for row in table.to_pylist():
            assert row["verdict"] == "accept"
            assert row["left_hand_good"] <= row["has_left_hand"]  # an unseen hand is not good
            assert row["probability_good"] > 0.5
    # The mirrored photo is on the side of the other, and people of one photo are together.
    split_of = {row["image_id"]: name for name, t in tables.items() for row in t.to_pylist()}
    groups = {row["image_id"]: row["group"] for t in tables.values() for row in t.to_pylist()}
    if {"images/im000.png", "images/im001.png"} <= set(split_of):
        assert split_of["images/im000.png"] == split_of["images/im001.png"]
    assert groups.get("images/im001.png", "images/im000.png") == "images/im000.png"
    card = (folder / "README.md").read_text()
    for words in ("Estimated share of good fits", "Krippendorff", "limb_off", "open body",
                  "Licence of the photos"):  # fmt: skip
        assert words in card


def test_a_part_that_most_call_wrong_is_not_good(review, tmp_path, capsys):
    verdicts = find_verdicts(open_decisions(default_url(review.store.root)))
    run(export, capsys, review.data, "--to", tmp_path, "--no-duplicates", "--val", 0)
    rows = {r["fit_id"]: r for r in pq.read_table(tmp_path / "train.parquet").to_pylist()}
    wrong = 0
    for k, fit in enumerate(verdicts.fit_id):
        if fit in rows and rows[fit]["has_left_hand"]:
            assert rows[fit]["left_hand_good"] == verdicts.parts[k, 1]
            wrong += not verdicts.parts[k, 1]
    assert wrong > 0


def test_the_hub_reads_it(review, tmp_path, capsys, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    summary, _ = run(export, capsys, review.data, "--to", tmp_path / "set", "--val", 0.4)
    found = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert set(found) == {"train", "validation"}
    assert sum(len(split) for split in found.values()) == summary["fits"]
    first = found["train"].with_format("numpy")[0]
    assert first["body_pose"].shape == (63,)
    assert first["verdict"] == "accept"


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("parquet", "train.parquet"), ("expose", "expose/train.npz"), ("spin", "spin/train.npz"),
        ("humandata", "humandata/train.npz"), ("amass", "amass/train"),
        ("smplifyx", "smplifyx/train"), ("neuralannot", "neuralannot/train_SMPLX_NeuralAnnot.json"),
    ],
)  # fmt: skip
def test_round_trip_through_every_format(kind, source, review, tmp_path, capsys):
    summary, _ = run(
        export, capsys, review.data, "--to", tmp_path / "set", "--formats", kind, "--val", 0,
        "--no-duplicates",
    )  # fmt: skip
    extra = ()
    if kind == "neuralannot":
        extra = ("--coco", tmp_path / "set/neuralannot/train_coco.json")
    imported, _ = run(
        import_fits, capsys, tmp_path / "set" / source, "--images", review.data, "--out",
        tmp_path / "fits", *extra,
    )  # fmt: skip
    assert imported["imported"] == summary["fits"]
    assert imported["photos_unread"] == 0
    before = {(r["image_id"], r["person_index"]): r for r in review.store.iter_rows()}
    count = 0
    for row in FitStore(tmp_path / "fits").iter_rows():
        old = before[row["image_id"], row["person_index"]]
        for name in ("global_orient", "body_pose", "left_hand_pose", "right_hand_pose", "betas",
                     "expression", "transl", "center_px"):  # fmt: skip
            np.testing.assert_allclose(row[name], old[name], atol=1e-4, err_msg=name)
        assert row["status"] == "ok"
        assert row["focal_px"] == pytest.approx(old["focal_px"])
        assert row["residual_body_px"] < 0.02  # its keypoints were the model's own
        assert (row["width"], row["height"]) == (64, 48)
        count += 1
    assert count == summary["fits"]


def test_all_formats_at_once_and_chosen_meshes(review, tmp_path, capsys):
    chosen = find_verdicts(open_decisions(default_url(review.store.root)))
    fit = next(f for f, v in zip(chosen.fit_id, chosen.verdict, strict=True) if v == "accept")
    run(export, capsys, review.data, "--to", tmp_path, "--fits", fit, "--formats", "glb", "obj",
        "coco")  # fmt: skip
    assert len([*tmp_path.rglob("*.glb")]) == len([*tmp_path.rglob("*.obj")]) == 1
    summary, _ = run(export, capsys, review.data, "--to", tmp_path / "x", "--dry-run", "--all")
    assert summary["dry_run"]
    assert summary["fits"] == len(review.fit_ids)
    assert not (tmp_path / "x").exists()


def test_an_export_replaces_the_last_one_and_nothing_else(review, tmp_path, capsys):
    run(export, capsys, review.data, "--to", tmp_path, "--val", 0.5, "--formats", "parquet", "spin")
    assert {p.name for p in tmp_path.glob("*.parquet")} == {"train.parquet", "val.parquet"}
    (tmp_path / "notes.txt").write_text("mine")
    run(export, capsys, review.data, "--to", tmp_path, "--val", 0)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"train.parquet", "README.md", "export.json", "notes.txt"}


def test_refusals_tell_how_to_go_on(review, tmp_path, capsys):
    assert export.main([str(tmp_path)]) == 1
    assert "fits" in capsys.readouterr().err
    empty = ["--decisions", str(tmp_path / "none.sqlite")]
    assert export.main([str(review.data), *empty]) == 1
    assert "--decisions" in capsys.readouterr().err
    assert export.main([str(review.data), "--run-id", "other"]) == 1
    assert "it has run-1" in capsys.readouterr().err
    assert export.main([str(review.data), "--val", "1.2"]) == 2
    assert import_fits.main([str(tmp_path / "a.npz"), "--images", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_public_fits_are_not_put_on_the_open_body(review, tmp_path, capsys):
    run(export, capsys, review.data, "--to", tmp_path, "--formats", "expose", "--val", 0)
    data = dict(np.load(tmp_path / "expose/train.npz"))
    keys = ("img_fns", "pose", "betas", "expression", "keypoints2D")
    np.savez(tmp_path / "public.npz", **{k: data[k] for k in keys})
    arguments = [str(tmp_path / "public.npz"), "--images", str(review.data), "--out",
                 str(tmp_path / "fits")]  # fmt: skip
    assert import_fits.main(arguments) == 1
    assert "Name your SMPL-X files with --body" in capsys.readouterr().err


def test_importing_twice_is_refused(review, tmp_path, capsys):
    run(export, capsys, review.data, "--to", tmp_path, "--formats", "expose", "--val", 0)
    arguments = [str(tmp_path / "expose/train.npz"), "--images", str(review.data), "--out",
                 str(tmp_path / "fits")]  # fmt: skip
    assert import_fits.main(arguments) == 0
    assert import_fits.main(arguments) == 1
    assert "imported before" in capsys.readouterr().err


def test_a_missing_photo_is_a_reason_and_no_end(review, tmp_path, capsys):
    run(export, capsys, review.data, "--to", tmp_path, "--formats", "expose", "--val", 0)
    summary, _ = run(import_fits, capsys, tmp_path / "expose/train.npz", "--images",
                     tmp_path / "nowhere", "--out", tmp_path / "fits")  # fmt: skip
    assert summary["imported"] == summary["photos_unread"] > 0
    reasons = FitStore(tmp_path / "fits").read_table(["reason"])["reason"].to_pylist()
    assert all(reason.startswith("the photo: ") for reason in reasons)


def test_stats(review, tmp_path, capsys):
    summary, text = run(stats, capsys, review.data, "--annotators", tmp_path / "people.csv")
    assert summary["rows"] == len(review.fit_ids)
    measured = summary["review"]["measured"]
    assert measured["acceptance, from the audit"][1] < review.good.mean() + 0.15
    value, low, high = measured["good among the accepted"]
    assert low < value < high <= 1  # wide: there are few decisions, and no gold
    assert value > 0.7
    assert text.index("agreement on reject") < text.index("Krippendorff")
    people = (tmp_path / "people.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in people] == ["annotator", "anna", "bert", "carl"]


def test_stats_without_a_review(review, tmp_path, capsys, open_body):
    review = make_review(tmp_path / "photos", open_body, photos=3)
    (review.store.root / "decisions.sqlite").unlink()
    for rest in review.store.root.glob("decisions.sqlite-*"):
        rest.unlink()
    _, text = run(stats, capsys, review.data)
    assert "No decisions yet" in text
    assert stats.main([str(tmp_path)]) == 1


def test_triage_report(review, capsys):
    summary, _ = run(triage_report, capsys, review.data)
    page = (review.store.root / "triage.html").read_text()
    assert "precision by recall" in page
    assert "residual_body" in page
    assert summary["fits"] == len(review.fit_ids)
    assert summary["log_loss"] < 0.65


def test_rules_say_what_they_cost_and_then_decide(review, tmp_path, capsys, open_body):
    own = make_review(tmp_path / "photos", open_body, photos=30, seed=3)
    path = tmp_path / "rules.yaml"
    path.write_text(
        "- {name: far-off, verdict: reject, above: {residual_body_pct: 4.0}}\n"
        "- {name: sure, verdict: accept, above: {triage: 0.6}, below: {residual_body_pct: 2.5}}\n"
    )
    dry, _ = run(rules, capsys, own.data, "--rules", path)
    assert dry["rules"]["far-off"]["error_high"] <= 1
    assert dry["rules"]["far-off"]["error"] < 0.4
    assert dry["decided"] == 0
    done, _ = run(rules, capsys, own.data, "--rules", path, "--apply")
    taken = sum(rule["would_decide"] for rule in done["rules"].values())
    assert done["decided"] == taken > 0
    verdicts = find_verdicts(open_decisions(default_url(own.store.root)))
    by_rule = {by for by in verdicts.decided_by if by.startswith("rule:")}
    assert by_rule <= {"rule:far-off", "rule:sure"} and by_rule
    again, _ = run(rules, capsys, own.data, "--rules", path, "--apply")
    assert again["decided"] == 0
    path.write_text("- {name: all, verdict: accept}\n")
    assert rules.main([str(own.data), "--rules", str(path)]) == 2
    assert "it would match everything" in capsys.readouterr().err


def test_adjudication_and_humans_go_before_rules(tmp_path):
    store = DecisionStore(default_url(tmp_path))
    store.append_all(
        [
            Decision("a", "anna", "accept"), Decision("a", "bert", "reject"),
            Decision("b", "anna", "accept"), Decision("b", "bert", "reject"),
            Decision("b", "chief", "reject", source="adjudication", parts=frozenset()),
            Decision("c", "rule:x", "accept", source="rule"), Decision("c", "anna", "reject"),
            Decision("d", "rule:x", "accept", source="rule"),
            Decision("e", "anna", "unsure"),
        ]
    )  # fmt: skip
    store.close()
    found = find_verdicts(open_decisions(default_url(tmp_path)))
    assert dict(zip(found.fit_id, found.verdict, strict=True)) == {
        "a": "disputed", "b": "reject", "c": "reject", "d": "accept", "e": "unsure",
    }  # fmt: skip
    assert found.accepted_parts() == {"d": frozenset({"body", "left_hand", "right_hand", "face"})}
    assert found.stratum[1] == ("asked", "rule:x")
    assert found.stratum[0].tolist() == [0, 0, 1, 1, 0]


def test_the_report_server_shows_reports_and_nothing_else(review):
    (review.store.root / "report.html").write_text("<p>hello</p>")
    picture = review.store.overlay_path("run-1", "f", "front")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(b"jpeg")
    (review.data / "secret.html").write_text("no")
    server = make_server(review.store.root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}"

    def get(path):
        try:
            with urllib.request.urlopen(base + path) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, b""

    try:
        assert b"report.html" in get("/")[1]
        assert get("/report.html") == (200, b"<p>hello</p>")
        assert get("/overlays/run-1/f.front.jpg") == (200, b"jpeg")
        assert get("/meta/runs/run-1.yaml")[0] == 200
        for path in ("/decisions.sqlite", "/data/run=run-1/part-00of01-000001.parquet",
                     "/../secret.html", "/%2e%2e/secret.html", "/overlays/", "/meta/info.json",
                     "/overlays/../decisions.sqlite", "//etc/passwd"):  # fmt: skip
            assert get(path)[0] == 404, path
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
