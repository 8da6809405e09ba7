"""Rendered people with exact truth: ``python -m regressor.synthetic OUT --count 2000``.

The open body in recorded poses, with drawn shapes, hands and faces, dressed by colour, in front of
made backdrops, behind made occluders, seen by drawn cameras. Tests take their data from here,
regressors part of their training. It is written in shards of 50; a shard whose labels are there is
whole, so an interrupted run goes on where it was.
"""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import SMPLX_KEYPOINTS
from regressor.examples import Example, PictureFile, box_of_keypoints

SHARD = 50


@dataclass(frozen=True)
class SyntheticConfig:
    """Render people with known truth."""

    out: Positional[Path]
    """Folder to fill."""
    count: int = 2000
    """How many people."""
    size: int = 384
    """Longer side of a picture in pixels."""
    seed: int = 0
    """Of everything drawn."""
    mocap: Path | None = None
    """Motion capture (bodymodel.mocap.load_mocap); the poses that come with the package if none."""
    held_out: bool = False
    """Take poses of the subjects that training leaves out (number divisible by five)."""
    occluders: float = 0.3
    """Share of the pictures with something in front of the person."""
    workers: int = 1
    """Processes."""


def render_shard(config: SyntheticConfig, shard: int) -> Path:
    """Render one shard's people and write their labels; return the labels' file."""
    import torch

    from bodymodel.files import load_body
    from bodymodel.mocap import Motion
    from bodymodel.model import BodyModel
    from bodymodel.params import BodyParams
    from bodymodel.rotations import rotmat_to_rotvec
    from regressor.lifter.people import draw_people, show

    torch.set_num_threads(1)
    labels = config.out / f"labels-{shard:05d}.npz"
    if labels.exists():
        return labels
    rng = np.random.default_rng([config.seed, shard])
    motion: Motion = _motion(config)
    body = load_body()
    model = BodyModel(body)
    count = min(SHARD, config.count - shard * SHARD)
    points = ("pelvis",)
    people = draw_people(body, motion, points, count, rng)
    shown = show(people, points, torch.Generator().manual_seed(int(rng.integers(2**31))))

    rows: list[dict[str, Any]] = []
    for k in range(count):
        rotations = rotmat_to_rotvec(people.rotations[k])
        hands = rotmat_to_rotvec(people.hands[k])
        betas, expression = torch.zeros(body.num_betas), torch.zeros(body.num_expression)
        betas[:10], expression[:10] = people.betas[k], people.expression[k]
        params = BodyParams(
            global_orient=rotmat_to_rotvec(shown.root[k]),
            body_pose=rotations[1:],
            jaw_pose=rotmat_to_rotvec(people.jaw[k]),
            leye_pose=torch.zeros(3),
            reye_pose=torch.zeros(3),
            left_hand_pose=hands[:15],
            right_hand_pose=hands[15:],
            betas=betas,
            expression=expression,
            transl=torch.zeros(3),
        )
        image, row = _photo(model, params, config, rng)
        name = f"{shard * SHARD + k:06d}.jpg"
        _save(config.out / "images" / name, image)
        rows.append({"image": name, **row})
    _save_labels(labels, {key: np.stack([row[key] for row in rows]) for key in rows[0]})
    return labels


def _motion(config: SyntheticConfig):
    from bodymodel.mocap import load_mocap, packaged_motion, plausible_frames, retarget

    if config.mocap is None:
        motion = packaged_motion()
    else:
        motion = retarget(load_mocap(config.mocap))
        motion = motion.take(plausible_frames(motion))
    train, held_out = motion.split()
    return held_out if config.held_out else train


def _photo(model, params, config: SyntheticConfig, rng: np.random.Generator):
    """Place a person before a camera, dress, render; return the picture and its labels."""
    import torch

    from bodymodel.synthetic import (
        dress,
        frame_person,
        head_top_vertex,
        make_backdrop,
        photograph,
        random_lighting,
        random_outfit,
    )

    tall = rng.random() < 0.7
    width, height = (config.size * 3 // 4, config.size) if tall else (config.size, config.size)
    focal = float(np.exp(rng.uniform(np.log(0.9), np.log(2.5))) * config.size)
    center = (width / 2, height / 2)
    with torch.no_grad():
        out = model(params)
    vertices, keypoints = out.vertices.numpy(), out.keypoints.numpy()
    # most fill the picture, some leave it, as crops of data sets do
    fill = rng.uniform(0.55, 0.9) if rng.random() < 0.85 else rng.uniform(1.0, 1.6)
    transl = frame_person(vertices, focal, width, height, fill, rng.uniform(-1, 1, 2))
    transl[2] = max(transl[2], 0.4 - vertices[:, 2].min())
    vertices, keypoints = vertices + transl, keypoints + transl

    body = model.body
    image = photograph(
        vertices.astype(np.float32),
        body.faces,
        dress(body, random_outfit(rng), rng),
        make_backdrop(rng, width, height, horizon=float(rng.uniform(0.4, 0.8))),
        focal,
        center,
        random_lighting(rng),
        rng,
    )
    if rng.random() < config.occluders:
        image = _occlude(image, rng)
    named = dict(zip(SMPLX_KEYPOINTS, keypoints, strict=True))
    named["head_top"] = vertices[head_top_vertex(body)]
    points = np.stack([named[name] for name in FIT_KEYPOINTS])
    pixels = points[:, :2] / points[:, 2:] * focal + center
    inside = ((pixels > 0) & (pixels < [width, height])).all(1)
    values = params.numpy()
    values["transl"] = transl
    return image, {
        **{name: np.asarray(value, np.float32) for name, value in values.items()},
        "keypoints_2d": np.column_stack([pixels, inside]).astype(np.float32),
        "keypoints_3d": np.column_stack([points - named["pelvis"], np.ones(len(points))]).astype(
            np.float32
        ),
        "focal_px": np.float32(focal),
        "center_px": np.asarray(center, np.float32),
    }


def _occlude(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put one to three flat things in front: boxes and discs of one colour and some noise."""
    from PIL import Image, ImageDraw, ImageFilter

    height, width = image.shape[:2]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(1, 4)):
        middle = rng.uniform(0.15, 0.95, 2) * (width, height)
        half = rng.uniform(0.04, 0.16, 2) * max(width, height) / 2 * rng.uniform(1, 2)
        corners = [*(middle - half), *(middle + half)]
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(corners, fill=255)
    alpha = np.asarray(mask.filter(ImageFilter.GaussianBlur(0.7)), np.float32)[..., None] / 255
    thing = rng.uniform(20, 235, 3) + rng.normal(0, 8, (height, width, 1))
    return np.clip(image * (1 - alpha) + thing * alpha, 0, 255).astype(np.uint8)


def _save(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=92)


def _save_labels(path: Path, arrays: dict[str, np.ndarray]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(path)


@dataclass(frozen=True, eq=False)
class SyntheticPeople:
    """A folder of rendered people as a source of examples.

    Attributes:
        root: The folder.
        labels: All shards' arrays, one after the other.
    """

    root: Path
    labels: dict[str, np.ndarray] = field(repr=False)

    @classmethod
    def open(cls, root: Path) -> "SyntheticPeople":
        """Read the labels of a folder.

        Raises:
            FileNotFoundError: If there are none.
        """
        shards = sorted(root.glob("labels-*.npz"))
        if not shards:
            raise FileNotFoundError(
                f"{root} holds no labels-*.npz; make people with python -m regressor.synthetic"
            )
        arrays = []
        for shard in shards:
            with np.load(shard, allow_pickle=False) as file:
                arrays.append({key: file[key] for key in file})
        return cls(root, {k: np.concatenate([a[k] for a in arrays]) for k in arrays[0]})

    def __len__(self) -> int:
        return len(self.labels["image"])

    def __getitem__(self, index: int) -> Example:
        """Return one person."""
        row = {key: value[index] for key, value in self.labels.items()}
        center, side = box_of_keypoints(row["keypoints_2d"])
        names = (
            "global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose",
            "left_hand_pose", "right_hand_pose", "betas", "expression",
        )  # fmt: skip
        return Example(
            picture=PictureFile(self.root / "images" / str(row["image"])),
            center_px=center,
            side_px=side,
            source="synthetic",
            key=str(row["image"]),
            keypoints_2d=row["keypoints_2d"],
            keypoints_3d=row["keypoints_3d"],
            params={name: row[name] for name in names},
            focal_px=float(row["focal_px"]),
            center_of_view_px=row["center_px"],
        )


def make_people(config: SyntheticConfig) -> SyntheticPeople:
    """Render what is not there yet, and open the folder."""
    from functools import partial
    from multiprocessing import get_context

    from tqdm import tqdm

    config.out.mkdir(parents=True, exist_ok=True)
    shards = range(math.ceil(config.count / SHARD))
    missing = [s for s in shards if not (config.out / f"labels-{s:05d}.npz").exists()]
    work = partial(render_shard, config)
    progress = tqdm(total=len(missing) * SHARD, unit="person", disable=not sys.stderr.isatty())
    if config.workers > 1 and len(missing) > 1:
        with get_context("spawn").Pool(config.workers) as pool:
            for _ in pool.imap_unordered(work, missing):
                progress.update(SHARD)
    else:
        for shard in missing:
            work(shard)
            progress.update(SHARD)
    progress.close()
    return SyntheticPeople.open(config.out)


def main() -> None:
    """Run the command."""
    import tyro

    people = make_people(tyro.cli(SyntheticConfig, description=__doc__))
    print(f"synthetic: {len(people)} people in {people.root}")  # noqa: T201


if __name__ == "__main__":
    main()
