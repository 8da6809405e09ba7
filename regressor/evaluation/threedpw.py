"""3DPW's test split: gendered SMPL is the truth, in frames whose camera is known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regressor.datasets.labels import LabelError, turned
from regressor.datasets.threedpw import Sequence3dpw, read_sequence, sequence_files
from regressor.evaluation.inputs import (
    EvaluationError,
    Files,
    Person,
    Predictions,
    Report,
    cell,
    means,
)
from regressor.protocols import (
    H36M_TO_J14,
    J14_HIPS,
    PELVIS_ROW,
    Root,
    VertexPart,
    joint_errors,
    part_errors,
)

__all__ = ["evaluate_3dpw", "key_of", "people_of_3dpw"]

_REGRESSOR = "J_regressor_h36m.npy"
_GENDERS = {"m": "male", "f": "female"}


def key_of(sequence: Sequence3dpw, person: int, frame: int) -> str:
    """Return the key of somebody in a frame: ``<sequence>/<person>/<photo number>``."""
    return f"{sequence.name}/{person}/{int(sequence.frames[frame])}"


def _sequences(data: Path) -> Iterator[Sequence3dpw]:
    files = sequence_files(data, "test")
    if not files:
        raise EvaluationError(f"{data} has no sequenceFiles/test/*.pkl; is it 3DPW's folder?")
    for path in files:
        try:
            yield read_sequence(path)
        except LabelError as error:
            raise EvaluationError(f"{error}; every sequence counts, so get it again") from None


def people_of_3dpw(data: Path) -> list[Person]:
    """Return everybody in the valid frames, with the box of the published keypoints."""
    from regressor.examples import box_of_keypoints

    people = []
    for sequence in _sequences(data):
        inner = sequence.intrinsics
        focal, middle = float((inner[0, 0] + inner[1, 1]) / 2), inner[:2, 2] + 0.5
        for person, valid in enumerate(sequence.valid):
            for frame in np.flatnonzero(valid):
                try:
                    center, side = box_of_keypoints(sequence.points[person][frame])
                except ValueError:
                    continue
                box = np.concatenate([center - side / 2, center + side / 2])
                photo = data / sequence.photo(frame)
                people.append(Person(key_of(sequence, person, frame), photo, box, focal, middle))
    return people


def evaluate_3dpw(data: Path, predictions: Predictions, files: Files) -> Report:
    """Measure ``vertices`` (N, V, 3), or ``joints`` (N, 14, 3) in J14's order.

    The truth needs the user's SMPL models of both genders (``--models``) and
    ``J_regressor_h36m.npy``. Vertices of SMPL go through the same regressor, those of SMPL-X
    through ``SMPLX_to_J14.pkl``. PVE is measured where predictions have SMPL's topology.

    Raises:
        EvaluationError: If something is missing.
    """
    errors: dict[str, list[np.ndarray]] = {}
    count = missing = 0
    root: Root | None = None
    where = {key: k for k, key in enumerate(predictions.keys)}
    for sequence in _sequences(data):
        for person, valid in enumerate(sequence.valid):
            frames = np.flatnonzero(valid)
            keys = [key_of(sequence, person, frame) for frame in frames]
            chosen = [k for k, key in enumerate(keys) if key in where]
            missing += len(keys) - len(chosen)
            if not chosen:
                continue
            count += len(chosen)
            rows = [where[keys[k]] for k in chosen]
            truth = _true_vertices(sequence, person, frames[chosen], files)
            found, root = _measure(truth, rows, predictions, files)
            for name, values in found.items():
                errors.setdefault(name, []).append(values)
    if root is None:
        raise EvaluationError(
            f"{predictions.source}: no key is one of 3DPW's test frames; keys are "
            "<sequence>/<person>/<photo number>, such as downtown_walking_00/0/12"
        )
    figures = means({name: np.concatenate(values) for name, values in errors.items()})
    names = ("mpjpe", "pa_mpjpe", "pve_all", "pa_pve_all")
    return Report(
        title="3DPW test, mm",
        head=("", "MPJPE", "PA-MPJPE", "PVE", "PA-PVE"),
        rows=(("14 joints", *(cell(figures, n) for n in names)),),
        figures=figures,
        count=count,
        missing=missing,
        notes=(f"root: {root.name}; truth: gendered SMPL, valid frames",),
    )


def _measure(
    truth: np.ndarray, rows: list[int], predictions: Predictions, files: Files
) -> tuple[dict[str, np.ndarray], Root]:
    size = truth.shape[1]
    regressor = files.regressor(_REGRESSOR, (17, size), "3DPW's truth")
    true17 = regressor @ truth
    order = list(H36M_TO_J14)
    if "joints" in predictions.arrays:
        joints = np.asarray(predictions.arrays["joints"][rows], float)
        if joints.shape[1:] != (14, 3):
            raise EvaluationError(f"joints must be (N, 14, 3) in J14's order, got {joints.shape}")
        return joint_errors(joints, true17[:, order], J14_HIPS), J14_HIPS
    vertices = np.asarray(predictions.need("vertices", "joints")[rows], float)
    if vertices.shape[1] != size:
        shape = (14, vertices.shape[1])
        other = files.regressor("SMPLX_to_J14.pkl", shape, "a body that is not SMPL")
        return joint_errors(other @ vertices, true17[:, order], J14_HIPS), J14_HIPS
    errors = joint_errors(regressor @ vertices, true17, PELVIS_ROW, order)
    whole = [VertexPart("all", None, 0)]
    return errors | part_errors(vertices, truth, whole, regressor), PELVIS_ROW


def _true_vertices(
    sequence: Sequence3dpw, person: int, frames: np.ndarray, files: Files
) -> np.ndarray:
    """Return (F, V, 3) of the gendered body, camera axes, pelvis near the origin."""
    import torch

    gender = _GENDERS.get(sequence.genders[person], "neutral")
    model = files.smpl(gender)
    pose = np.array(sequence.poses[person][frames], np.float64)
    outer = sequence.world_to_camera
    for row, frame in enumerate(frames):
        pose[row, :3] = turned(pose[row, :3], outer[frame, :3, :3])
    betas = np.asarray(sequence.betas[person], np.float32).reshape(-1)[: model.num_betas]
    out = []
    with torch.no_grad():
        for first in range(0, len(pose), 64):
            part = torch.as_tensor(pose[first : first + 64], dtype=torch.float32)
            out.append(model.forward_pose(part.view(-1, 24, 3), torch.as_tensor(betas)[None]))
    return np.concatenate([o.vertices.double().numpy() for o in out])
