import numpy as np
import pytest
import torch

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.model import BodyModel
from bodymodel.spec import SMPLX_KEYPOINTS
from regressor.expose import Expose, ExposeConfig
from regressor.predictor import PersonBox, Predictor, place_by_points


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    body = load_body()
    return Predictor(Expose(body, ExposeConfig.tiny()), body)


def people(count=2):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    return [PersonBox(image, np.array([40 + 30 * k, 30, 130 + 30 * k, 210])) for k in range(count)]


def test_keypoints_are_those_of_the_parameters(predictor):
    found = predictor(people())
    out = BodyModel(predictor.body)(found.params)
    pixels = out.keypoints[..., :2] / out.keypoints[..., 2:] * found.focal_px[:, None, None]
    pixels = pixels + found.center_px[:, None]
    mine = found.keypoints_2d[:, : len(SMPLX_KEYPOINTS)]
    known = torch.isfinite(mine).all(-1)
    assert known.sum() == 2 * 127
    torch.testing.assert_close(mine[known], pixels[known], atol=0.02, rtol=0)
    assert FIT_KEYPOINTS[-1] == "head_top"


def test_company_does_not_matter(predictor):
    both, one = predictor(people(2)), predictor(people(1))
    torch.testing.assert_close(both.params.body_pose[:1], one.params.body_pose, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.params.transl[:1], one.params.transl, atol=1e-3, rtol=0)


def test_the_focal_length_moves_the_person_not_the_picture(predictor):
    near, far = people(1)[0], people(1)[0]
    far = PersonBox(far.picture, far.bbox_xyxy_px, focal_px=2000.0)
    a, b = predictor([near]), predictor([far])
    ratio = float(b.params.transl[0, 2] / a.params.transl[0, 2])
    assert abs(ratio - 2000 / float(a.focal_px[0])) < 0.2 * ratio
    off = (a.keypoints_2d - b.keypoints_2d).norm(dim=-1)
    assert float(torch.nanmedian(off)) < 3


@pytest.mark.parametrize("box", [[0, 0, 0, 10], [5, 5, 1, 9], [np.nan, 0, 1, 1], [1, 2, 3]])
def test_bad_boxes_are_refused(predictor, box):
    with pytest.raises(ValueError, match="a box must be"):
        predictor([PersonBox(np.zeros((9, 9, 3), np.uint8), np.array(box, float))])


def test_places_are_found_exactly():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 20, 3, generator=generator).double()
    place = torch.tensor([[0.3, -0.2, 6.0], [1.0, 0.5, 9.0], [0.0, 0.0, 5.0]]).double()
    focal, center = torch.tensor([500.0, 800, 1200]).double(), torch.rand(3, 2).double() * 100
    there = points + place[:, None]
    pixels = focal[:, None, None] * there[..., :2] / there[..., 2:] + center[:, None]
    torch.testing.assert_close(place_by_points(points, pixels, focal, center), place)
