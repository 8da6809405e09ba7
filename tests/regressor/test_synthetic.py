import numpy as np

from regressor.synthetic import LEAST_INSIDE, SyntheticConfig, SyntheticPeople, make_people


def test_people_who_left_the_picture_are_no_examples(rendered, tmp_path):
    labels = {key: value.copy() for key, value in rendered.labels.items()}
    labels["keypoints_2d"][3, :, 2] = 0
    labels["keypoints_2d"][3, : LEAST_INSIDE - 1, 2] = 1
    np.savez(tmp_path / "labels-00000.npz", **labels)
    opened = SyntheticPeople.open(tmp_path)
    assert len(opened) == len(rendered) - 1
    keys = {opened[k].key for k in range(len(opened))}
    assert rendered[3].key not in keys
    assert rendered[4].key in keys


def test_variety_changes_pictures_and_no_truth(tmp_path):
    made = {
        variety: make_people(SyntheticConfig(tmp_path / str(variety), 3, 96, variety=variety))
        for variety in (0.0, 1.0)
    }
    plain, varied = made[0.0], made[1.0]
    np.testing.assert_array_equal(plain.labels["body_pose"], varied.labels["body_pose"])
    a, b = plain[0].picture.load(), varied[0].picture.load()
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b).mean() > 5
    # the pose is drawn first and the truth is the body's, whatever is worn
    np.testing.assert_array_equal(plain.labels["keypoints_2d"][0], varied.labels["keypoints_2d"][0])
