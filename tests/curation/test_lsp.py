import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from curation.datasets import DatasetError, open_dataset
from curation.samples import KeypointSource


def points_of(sample):
    ((source, keypoints),) = sample.people[0].keypoints
    assert source == KeypointSource.ANNOTATION and keypoints.convention == "lsp14"
    return keypoints.points


def make(root, joints, digits, numbers, suffix=".jpg"):
    (root / "images").mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", (8, 6)).save(root / "images" / f"im{number:0{digits}d}{suffix}")
    savemat(root / "joints.mat", {"joints": joints})
    return open_dataset(root)


@pytest.fixture
def labels():
    """(N, 14, 3) that tell their indices: x = 100 n + j, y = 7, a flag."""
    n, j = np.mgrid[:5, :14].astype(float)
    flag = np.zeros((5, 14))
    flag[2, 3] = 1
    return np.stack([100 * n + j, np.full_like(n, 7.0), flag], -1)


def test_lsp_has_images_last_and_flags_what_is_hidden(tmp_path, labels):
    dataset = make(tmp_path, labels.transpose(2, 1, 0), 4, range(1, 6))
    assert dataset.kind == "lsp" and dataset.count() == 5
    samples = list(dataset.iter_samples())
    assert [s.image_id for s in samples] == [f"images/im000{k}.jpg" for k in range(1, 6)]
    # MATLAB's first pixel has its centre at 1, ours at 0.5.
    assert points_of(samples[2])[:, 0].tolist() == [200 + j - 0.5 for j in range(14)]
    assert (points_of(samples[2])[:, 1] == 6.5).all()
    confidence = np.ones((5, 14))
    confidence[2, 3] = 0.5
    assert np.array_equal([points_of(s)[:, 2] for s in samples], confidence)


def test_lspet_has_joints_first_and_flags_what_is_labelled(tmp_path, labels):
    labels[..., 2] = 1 - labels[..., 2]
    labels[2, 3, :2] = -322
    dataset = make(tmp_path, labels.transpose(1, 2, 0), 5, range(1, 6))
    assert dataset.kind == "lspet"
    samples = list(dataset.iter_samples())
    assert samples[0].image_id == "images/im00001.jpg"
    assert points_of(samples[2])[:3, 0].tolist() == [199.5, 200.5, 201.5]
    assert points_of(samples[2])[3].tolist() == [0, 0, 0]
    assert (points_of(samples[2])[:, 2] > 0).sum() == 13


def test_a_single_image_of_which_matlab_drops_the_axis(tmp_path, labels):
    dataset = make(tmp_path / "one", labels[:1].transpose(2, 1, 0)[..., 0], 4, [1])
    assert dataset.kind == "lsp" and dataset.count() == 1
    dataset = make(tmp_path / "two", labels[:1].transpose(1, 2, 0)[..., 0], 5, [1])
    assert dataset.kind == "lspet" and dataset.count() == 1


def test_photos_and_labels_that_do_not_match(tmp_path, labels):
    dataset = make(tmp_path, labels.transpose(2, 1, 0), 4, [1, 3, 7])
    samples = {s.image_id: s for s in dataset.iter_samples()}
    assert dataset.count() == len(samples) == 6
    assert not samples["images/im0002.jpg"].path.exists()  # labels without a photo
    assert samples["images/im0002.jpg"].people
    more = samples["images/im0007.jpg"]
    assert not more.people and "5 images, none for number 7" in more.problem


def test_the_high_resolution_set_has_png_files_and_gaps(tmp_path, labels):
    labels[..., 2] = 1
    dataset = make(tmp_path, labels.transpose(1, 2, 0), 5, [2, 4], ".png")
    found = [s for s in dataset.iter_samples() if s.path.exists()]
    assert [s.image_id for s in found] == ["images/im00002.png", "images/im00004.png"]
    assert points_of(found[1])[0, 0] == 299.5


def test_the_truth_of_rendered_people_goes_with_them(tmp_path, labels):
    make(tmp_path, labels.transpose(2, 1, 0), 4, range(1, 6))
    rng = np.random.default_rng(0)
    betas, pose = rng.normal(size=(4, 10)), rng.normal(size=(4, 21, 3))
    np.savez(
        tmp_path / "truth.npz",
        image_id=[f"images/im000{k}.jpg" for k in (1, 2, 4, 5)],
        person_index=np.zeros(4, int),
        betas=betas,
        body_pose=pose,
        focal_px=np.arange(4.0),
        body_name="open-smplx-neutral",
    )
    samples = list(open_dataset(tmp_path).iter_samples())
    assert samples[2].people[0].truth is None
    truth = samples[3].people[0].truth
    assert np.array_equal(truth["betas"], betas[2]) and np.array_equal(truth["body_pose"], pose[2])
    assert truth["focal_px"] == 2 and str(truth["body_name"]) == "open-smplx-neutral"
    assert "image_id" not in truth


def test_a_truth_file_that_could_run_code_is_refused(tmp_path, labels):
    make(tmp_path, labels.transpose(2, 1, 0), 4, [1])
    np.savez(tmp_path / "truth.npz", image_id=np.array([{"an": "object"}], object))
    with pytest.raises(DatasetError, match=r"truth\.npz"):
        list(open_dataset(tmp_path).iter_samples())


def test_the_wrong_one_of_the_two_is_refused(tmp_path, labels):
    make(tmp_path, labels.transpose(2, 1, 0), 4, [1])
    with pytest.raises(DatasetError, match="not a lspet dataset"):
        open_dataset(tmp_path, "lspet")
