"""Make a sample set of rendered people in LSP's original layout, with the truth beside it.

    python -m fitting.demo demo/ [--count 24] [--seed 0]

The same arguments give the same files, byte for byte. Nothing is downloaded: the people are the
open body. ``python -m fitting.run demo/`` fits them, and its report can say how far off it is.
"""

import io
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS
from bodymodel.spec import SMPLX_KEYPOINTS

__all__ = ["DemoConfig", "make_demo"]

GENERATOR = 1
"""Goes up whenever the same seed gives other pictures."""

_MATLAB = 0.5  # MATLAB calls the centre of the first pixel 1, we call it 0.5

# How far, in metres, a limb's own surface may be in front of its joint.
_REACH_M = {
    "ankle": 0.10, "knee": 0.12, "hip": 0.20, "wrist": 0.08, "elbow": 0.10, "shoulder": 0.14,
    "neck": 0.15, "head_top": 0.12,
}  # fmt: skip


@dataclass(frozen=True)
class DemoConfig:
    """What to render."""

    directory: Positional[Path]
    """Where to: a new or empty folder, or an earlier demo set, which is replaced."""

    count: int = 24
    """Photos, one person each."""

    seed: int = 0
    """Another seed, other people."""

    pitch_deg: tuple[float, float] = (-2.0, 9.0)
    """How far cameras look down, degrees: from and to."""


class DirectoryInUseError(ValueError):
    """The folder holds files that are not a demo set."""


@dataclass(frozen=True, eq=False)
class _Photo:
    """A picture, its LSP labels and its truth."""

    image: np.ndarray
    lsp: np.ndarray  # (3, 14): x, y as MATLAB counts, 1 where hidden
    truth: dict[str, np.ndarray]


def make_demo(config: DemoConfig, body: BodyData | None = None) -> bool:
    """Write the sample set unless it is there already.

    ``images/im0001.jpg`` and so on, ``joints.mat`` (LSP's (3, 14, N): x, y and 1 where occluded),
    ``truth.npz`` (one row a person: the fields of BodyParams, camera, body) and a README.

    Args:
        config: What to render and where to.
        body: Whom to render, an SMPL-X body; by default the open one.

    Returns:
        Whether anything was written.

    Raises:
        DirectoryInUseError: If the folder holds something else.
        ValueError: If count is not from 1 to 9999.
    """
    if not 1 <= config.count <= 9999:
        raise ValueError(f"count must be from 1 to 9999, got {config.count}")
    from scipy.io import savemat
    from tqdm import tqdm

    from bodymodel.model import BodyModel

    root = config.directory
    if body is None:
        from bodymodel.files import load_body

        body = load_body("open")
    identity = {
        "generator": np.int64(GENERATOR),
        "seed": np.int64(config.seed),
        "count": np.int64(config.count),
        "pitch_deg": np.asarray(config.pitch_deg, np.float64),
        "body_sha256": np.full(config.count, body.sha256),
    }
    if _is_there(root, identity):
        return False

    model = BodyModel(body)
    scenes = _draw_scenes(config.count, np.random.default_rng(config.seed))
    (root / "images").mkdir(parents=True, exist_ok=True)
    # Written first: it says whose folder this is, should the run be broken off.
    (root / "README.md").write_text(_README.format(count=config.count, seed=config.seed))
    (root / "truth.npz").unlink(missing_ok=True)  # written last: it says that the set is complete
    for stale in (root / "images").glob("im[0-9]*.jpg"):
        stale.unlink()
    photos = []
    for number, scene in enumerate(
        tqdm(scenes, desc="rendering", unit="photo", disable=None), start=1
    ):
        rng = np.random.default_rng((config.seed, number))
        photo = _make_photo(model, scene, rng, config.pitch_deg)
        _save_jpeg(root / "images" / f"im{number:04d}.jpg", photo.image)
        photos.append(photo)

    mat = io.BytesIO()
    savemat(mat, {"joints": np.stack([p.lsp for p in photos], axis=-1)})
    header = b"MATLAB 5.0 MAT-file, labels of rendered people".ljust(116)
    # SciPy writes the time there.
    (root / "joints.mat").write_bytes(header + mat.getvalue()[len(header) :])
    truth = {key: np.stack([p.truth[key] for p in photos]) for key in photos[0].truth}
    truth["image_id"] = np.array([f"images/im{n:04d}.jpg" for n in range(1, config.count + 1)])
    truth["person_index"] = np.zeros(config.count, np.int64)
    truth["body_name"] = np.full(config.count, body.name)
    _save_npz(root / "truth.npz", truth | identity)
    return True


# --- what is in a photo ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Scene:
    """What is laid out for the whole set, so that few photos still show different things."""

    pose: int
    mirrored: bool
    yaw_deg: float


def _draw_scenes(count: int, rng: np.random.Generator) -> list[_Scene]:
    """Poses in turn, views spread evenly over the front half; every eighth person looks away."""
    from fitting.demo_poses import POSES

    order = np.concatenate([rng.permutation(len(POSES)) for _ in range(count // len(POSES) + 1)])
    away = np.zeros(count, bool)
    away[4::8] = True
    yaw = np.empty(count)
    front = rng.permutation(np.linspace(-80, 80, max(count - away.sum(), 1)))
    yaw[~away] = front[: count - away.sum()]
    yaw[away] = 180 + rng.uniform(-50, 50, away.sum())
    return [
        _Scene(pose=int(order[k]), mirrored=bool(rng.random() < 0.5), yaw_deg=float(yaw[k]))
        for k in range(count)
    ]


def _make_photo(
    model, scene: _Scene, rng: np.random.Generator, pitch_deg: tuple[float, float]
) -> _Photo:
    """Pose, frame, dress and render one person."""
    import torch

    from bodymodel.synthetic import (
        dress,
        frame_person,
        head_top_vertex,
        is_hidden,
        make_backdrop,
        photograph,
        random_lighting,
        random_outfit,
    )

    width, height = (480, 640) if rng.random() < 0.7 else (640, 480)
    focal = float(rng.uniform(1.1, 2.0) * max(width, height))
    center = (width / 2, height / 2)
    params = _random_params(model, scene, rng, pitch_deg)

    def posed():
        with torch.no_grad():
            out = model(params)
        return out.vertices.numpy(), out.keypoints.numpy()

    vertices, keypoints = posed()
    fill = rng.uniform(0.78, 0.88)
    offset = rng.uniform(-1, 1, 2)
    transl = frame_person(vertices, focal, width, height, fill, offset)
    params.transl.copy_(torch.as_tensor(transl, dtype=params.transl.dtype))
    vertices, keypoints = posed()

    body = model.body
    image = photograph(
        vertices,
        body.faces,
        dress(body, random_outfit(rng), rng),
        make_backdrop(rng, width, height, horizon=float(rng.uniform(0.5, 0.75))),
        focal,
        center,
        random_lighting(rng),
        rng,
    )
    named = dict(zip(SMPLX_KEYPOINTS, keypoints, strict=True))
    named["head_top"] = vertices[head_top_vertex(body)]
    names = CONVENTIONS["lsp14"]
    points = np.stack([named[name] for name in names])
    reach = np.array([_REACH_M[n.removeprefix("left_").removeprefix("right_")] for n in names])
    hidden = is_hidden(vertices, body.faces, points, reach)
    pixels = points[:, :2] / points[:, 2:] * focal + center
    return _Photo(
        image=image,
        lsp=np.concatenate([pixels.T + _MATLAB, hidden[None]]).astype(np.float64),
        truth={
            **params.numpy(),
            "focal_px": np.float32(focal),
            "center_px": np.asarray(center, np.float32),
        },
    )


def _random_params(model, scene: _Scene, rng: np.random.Generator, pitch_deg: tuple[float, float]):
    """A person of the table's pose with their own shape, hands and face; not yet in place."""
    import torch
    from scipy.spatial.transform import Rotation

    from bodymodel.params import BodyParams
    from fitting.demo_poses import POSES, build_pose

    pose = POSES[scene.pose]
    pelvis, body_pose = build_pose(pose, rng, mirrored=scene.mirrored)
    # The camera looks down by a few degrees: then the upright leans towards it in its frame.
    tilt = Rotation.from_euler("x", 180 + rng.uniform(*pitch_deg), degrees=True)
    turn = Rotation.from_euler("y", scene.yaw_deg, degrees=True)
    orient = tilt * turn * Rotation.from_rotvec(pelvis)

    body = model.body
    hands = [_random_hand(body, side, pose.hand, rng) for side in (0, 1)]
    betas = np.clip(rng.standard_normal(body.num_betas), -2.2, 2.2)
    betas[10:] = 0
    expression = np.clip(0.7 * rng.standard_normal(body.num_expression), -1.5, 1.5)
    expression[10:] = 0
    values = {
        "global_orient": orient.as_rotvec(),
        "body_pose": body_pose,
        "jaw_pose": (rng.uniform(0, 0.12), 0, 0),
        "left_hand_pose": hands[0],
        "right_hand_pose": hands[1],
        "betas": betas,
        "expression": expression,
    }
    zeros = BodyParams.zeros(
        num_betas=body.num_betas, num_expression=body.num_expression, dtype=model.dtype
    )
    values = {k: torch.as_tensor(np.asarray(v), dtype=model.dtype) for k, v in values.items()}
    return BodyParams(**{**vars(zeros), **values})


def _random_hand(body: BodyData, side: int, bent: float, rng: np.random.Generator) -> np.ndarray:
    """(15, 3) axis-angle: the mean hand, more or less bent, varied along the body's own components.

    The components are unit vectors in the files, so their coefficients are in radians.
    """
    mean = body.hand_means[side].astype(np.float64)
    coefficients = 0.25 * np.clip(rng.standard_normal(6), -1.5, 1.5)
    hand = (1 + 0.8 * bent) * mean + coefficients @ body.hand_components[side, :6]
    return hand.reshape(15, 3)


# --- files -----------------------------------------------------------------------------------

_README = """# A sample set of rendered people

{count} photos made by `python -m fitting.demo --count {count} --seed {seed}`. Nobody is shown: the
people are the open body, dressed by region.

* `images/im0001.jpg` and so on: one person each.
* `joints.mat`: LSP's layout, `joints` (3, 14, N) with rows x, y (the centre of the first pixel is
  1, as in MATLAB) and 1 where the joint is occluded.
* `truth.npz`: one row a person, the parameters (`global_orient`, `body_pose` ... in radians and
  metres, hands with the mean in them), `focal_px`, `center_px`, `body_name`, `body_sha256`.

The joints are SMPL-X's of the same name, and the highest vertex of the head. LSP's annotators
clicked elsewhere for hips, shoulders and neck, by some centimetres.
"""


def _is_there(root: Path, identity: dict[str, np.ndarray]) -> bool:
    """Whether the folder holds just this set, complete; raises if it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    readme = root / "README.md"
    if not readme.is_file() or not readme.read_text().startswith(_README.splitlines()[0]):
        raise DirectoryInUseError(
            f"{root} holds something that is not a demo set; name a new or an empty folder"
        )
    truth = root / "truth.npz"
    if not truth.is_file():
        return False
    with np.load(truth, allow_pickle=False) as arrays:
        same = all(k in arrays and np.array_equal(arrays[k], v) for k, v in identity.items())
        return same and all((root / name).is_file() for name in arrays["image_id"])


def _save_jpeg(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(image).save(path, quality=92)


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Like numpy.savez_compressed, but without the time in it."""
    partial = path.with_suffix(".npz.tmp")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue())
    partial.replace(path)


def main() -> None:
    """Run the command."""
    import tyro

    config = tyro.cli(DemoConfig, prog="python -m fitting.demo", description=__doc__)
    try:
        made = make_demo(config)
    except ValueError as error:
        sys.stderr.write(f"fitting.demo: {error}\n")
        raise SystemExit(2) from None
    summary = {"rendered": config.count if made else 0, "directory": str(config.directory)}
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
