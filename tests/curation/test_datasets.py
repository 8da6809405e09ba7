import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from curation import json_stream
from curation.datasets import DATASET_KINDS, DatasetError, open_dataset
from curation.samples import KeypointSource


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path, "PNG")
    return path


def ids(dataset):
    found = [sample.image_id for sample in dataset.iter_samples()]
    assert dataset.count() == len(found)
    assert [sample.image_id for sample in dataset.iter_samples()] == found  # again, the same
    return found


def body25(x=5.0):
    return {"people": [{"pose_keypoints_2d": [x, 1.0, 0.9] * 25}]}


def test_a_folder_gives_every_image_at_any_depth_in_order(tmp_path):
    wanted = ["B.JPG", "a.b.c.png", "a.png", "sub/deep/x.TiFf", "sub/y.webp", "zoë ünïcode 人.jpeg"]
    for name in wanted:
        touch(tmp_path / name)
    for name in [
        ".hidden.png",
        ".hidden/a.png",
        "fits/overlays/a.jpg",
        "exports/a.jpg",
        "__MACOSX/._a.jpg",
        "notes.txt",
        "jpg",
        "elsewhere/overlays/a.jpg",
    ]:
        touch(tmp_path / name)
    (tmp_path / "elsewhere" / "meta").mkdir()
    (tmp_path / "elsewhere" / "meta" / "info.json").write_text("{}")
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "folder"
    assert ids(dataset) == wanted
    assert [sample.people for sample in dataset.iter_samples()] == [()] * len(wanted)


def test_a_folder_named_fits_further_down_is_the_users_own(tmp_path):
    touch(tmp_path / "season" / "fits" / "a.png")
    assert ids(open_dataset(tmp_path)) == ["season/fits/a.png"]


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path / "sub" / "a.png")
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    touch(tmp_path.parent / "other" / "b.png")
    (tmp_path / "linked").symlink_to(tmp_path.parent / "other")
    assert ids(open_dataset(tmp_path)) == ["linked/b.png", "sub/a.png"]


def test_a_name_that_is_not_unicode_has_an_id_that_can_be_stored(tmp_path):
    touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")))
    (image_id,) = ids(open_dataset(tmp_path))
    assert image_id == r"caf\udce9.png"
    assert next(open_dataset(tmp_path).iter_samples()).path.is_file()


@pytest.mark.parametrize("kind", [None, *DATASET_KINDS])
def test_what_is_no_dataset_says_what_was_looked_for(tmp_path, kind):
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path, kind)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert all(word in message for word in ("joints.mat", "RELEASE", "keypoints/NAME", ".jpg"))


def test_places_that_are_no_directory(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="not a directory"):
        open_dataset(touch(tmp_path / "a.png"))
    with pytest.raises(DatasetError, match="unknown kind"):
        open_dataset(tmp_path, "h36m")


def test_openpose_in_two_folders(tmp_path):
    names = ["a.png", "many.dots.in.it.jpg", "zoë.png", "session 1/b.png", "none.png", "bad.png"]
    for name in names:
        touch(tmp_path / "images" / name)
    for i, name in enumerate(names[:4]):
        file = tmp_path / "keypoints" / f"{name.rpartition('.')[0]}_keypoints.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(body25(i + 1.0)))
    # The same name in Unicode's other spelling, as a Mac's archive has it
    (tmp_path / "keypoints" / "zoë_keypoints.json").rename(
        tmp_path / "keypoints" / "zoe\u0308_keypoints.json"
    )
    (tmp_path / "keypoints" / "bad_keypoints.json").write_text("{")
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "openpose"
    samples = {sample.image_id: sample for sample in dataset.iter_samples()}
    assert len(samples) == dataset.count() == len(names)
    for i, name in enumerate(names[:4]):
        ((source, keypoints),) = samples[f"images/{name}"].people[0].keypoints
        assert source == KeypointSource.OPENPOSE and keypoints.points[0, 0] == i + 1, name
    assert samples["images/none.png"].people == () and not samples["images/none.png"].problem
    assert "bad_keypoints.json is not JSON" in samples["images/bad.png"].problem


def test_openpose_beside_the_photos(tmp_path):
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "b.jpg")
    (tmp_path / "a_keypoints.json").write_text(json.dumps(body25()))
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "openpose"
    assert [len(sample.people) for sample in dataset.iter_samples()] == [1, 0]


def test_a_photo_in_a_subfolder_does_not_take_the_keypoints_of_its_namesake(tmp_path):
    touch(tmp_path / "images" / "one" / "a.png")
    touch(tmp_path / "images" / "a.png")
    (tmp_path / "keypoints").mkdir()
    (tmp_path / "keypoints" / "a_keypoints.json").write_text(json.dumps(body25()))
    people = {s.image_id: len(s.people) for s in open_dataset(tmp_path).iter_samples()}
    assert people == {"images/a.png": 1, "images/one/a.png": 0}


def test_the_kind_overrules_what_is_found(tmp_path):
    touch(tmp_path / "a.jpg")
    (tmp_path / "a_keypoints.json").write_text(json.dumps(body25()))
    dataset = open_dataset(tmp_path, "folder")
    assert dataset.kind == "folder" and [s.people for s in dataset.iter_samples()] == [()]


def test_results_of_a_detector_find_their_photos(tmp_path):
    names = ["000000000785.jpg", "a.b.png", "deep/c.png", "none.png"]
    for name in names:
        touch(tmp_path / name)

    def result(image, x):
        return {"image_id": image, "keypoints": [x, 2.0, 0.5] * 133, "score": 1}

    (tmp_path / "results.json").write_text(
        json.dumps(
            [
                result(785, 1.0),
                result("deep/c.png", 5.0),
                result("a.b", 2.0),
                result(785, 3.0),
                result("a.b", 4.0) | {"keypoints": [1, 2]},
            ]
        )
    )
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "wholebody"
    samples = {sample.image_id: sample for sample in dataset.iter_samples()}
    xs = {
        name: [float(k.points[0, 0]) for p in samples[name].people for _, k in p.keypoints]
        for name in names
    }
    assert xs == {
        "000000000785.jpg": [1.5, 3.5],
        "a.b.png": [2.5],
        "deep/c.png": [5.5],
        "none.png": [],
    }
    assert "result 1 in results.json" in samples["a.b.png"].problem
    assert [p.person_index for p in samples["a.b.png"].people] == [0, 1]


def coco_file(path, images, annotations):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"info": {}, "images": images, "categories": [], "annotations": annotations}
    path.write_text(json.dumps(data))


def person(number, image, x=1.0, **more):
    return {"id": number, "image_id": image, "iscrowd": 0, "keypoints": [x, 2, 2] * 17} | more


def test_coco_in_its_own_layout(tmp_path):
    touch(tmp_path / "val2017" / "000000000001.jpg")
    touch(tmp_path / "train2017" / "000000000001.jpg")
    touch(tmp_path / "train2017" / "000000000002.jpg")
    image = {"id": 1, "file_name": "000000000001.jpg", "height": 6, "width": 8}
    val = image | {"coco_url": "http://images.cocodataset.org/val2017/000000000001.jpg"}
    train = image | {"coco_url": "http://images.cocodataset.org/train2017/000000000001.jpg"}
    second = {"id": 2, "file_name": "000000000002.jpg"}
    lost = {"id": 3, "file_name": "000000000003.jpg"}
    annotations = tmp_path / "annotations"
    coco_file(
        annotations / "person_keypoints_train2017.json",
        [second, train, lost],
        [person(9, 1, 9.0), person(3, 2), person(4, 1, 4.0), person(5, 1, iscrowd=1)],
    )
    coco_file(annotations / "person_keypoints_val2017.json", [val], [person(7, 1, 7.0)])
    # The same photo again with more points, which come first; and files that say nothing of poses
    whole = person(7, 1, 70.0, face_kpts=[1, 2, 1] * 68, face_valid=True)
    coco_file(annotations / "coco_wholebody_val_v1.0.json", [val], [whole])
    coco_file(annotations / "captions_val2017.json", [val], [{"image_id": 1, "caption": "x"}])
    (annotations / "broken.json").write_text('{"images": [')

    dataset = open_dataset(tmp_path)
    assert dataset.kind == "coco"
    assert ids(dataset) == [
        "val2017/000000000001.jpg",
        "train2017/000000000002.jpg",
        "train2017/000000000001.jpg",
        "000000000003.jpg",
    ]
    samples = {sample.image_id: sample for sample in dataset.iter_samples()}
    ((whole_person),) = samples["val2017/000000000001.jpg"].people
    assert whole_person.keypoints[1][1].points[0, 0] == 70.5
    # In the order of the annotations' ids; the crowd keeps its number and is not given.
    people = samples["train2017/000000000001.jpg"].people
    assert [(p.person_index, float(p.keypoints[0][1].points[0, 0])) for p in people] == [
        (0, 4.5),
        (2, 9.5),
    ]


def test_coco_beside_its_photos_with_one_bad_label(tmp_path):
    touch(tmp_path / "a.jpg")
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "../outside.jpg"}]
    coco_file(tmp_path / "x.json", images, [person(1, 1), person(2, 1) | {"keypoints": [1] * 63}])
    first, second = open_dataset(tmp_path).iter_samples()
    assert [len(p.keypoints) for p in first.people] == [1, 0]
    assert "annotation 1 in x.json" in first.problem
    assert tmp_path in second.path.parents and ".." not in second.path.parts


def test_a_broken_coco_file_names_itself(tmp_path):
    coco_file(tmp_path / "x.json", [{"id": "one", "file_name": "a.jpg"}], [person(1, "one")])
    with pytest.raises(DatasetError, match=r"x\.json"):
        list(open_dataset(tmp_path).iter_samples())


def test_coco_holds_places_and_not_annotations_in_memory(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 16)

    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(300)]
    padding = {"segmentation": list(range(1000))}
    coco_file(tmp_path / "x.json", images, [person(i, i, **padding) for i in range(300)])
    dataset = open_dataset(tmp_path)
    tracemalloc.start()
    count = sum(1 for sample in dataset.iter_samples() if sample.people)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert (tmp_path / "x.json").stat().st_size > 1.2e6 and peak < 6e5


def test_an_unrelated_mat_file_is_no_lsp(tmp_path):
    touch(tmp_path / "a.png")
    savemat(tmp_path / "joints.mat", {"joints": np.zeros((4, 5, 6))})
    assert open_dataset(tmp_path).kind == "folder"
    (tmp_path / "joints.mat").write_bytes(b"junk")
    assert open_dataset(tmp_path).kind == "folder"
