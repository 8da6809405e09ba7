"""Human3.6M, S9 and S11, in Hand4Whole's JSON: protocol 1 all cameras, protocol 2 the frontal one.

P1 reports MPJPE, P2 PA-MPJPE of camera 4 (60457274). SPIN and PyMAF take every 5th frame,
Hand4Whole every 64th of camera 4: the stride and cameras are printed.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regressor.datasets.human36m import (
    H36M17,
    SUBJECTS,
    annotation_folder,
    camera_of,
    frame_joints,
    read_subject,
)
from regressor.datasets.labels import LabelError
from regressor.evaluation.inputs import (
    EvaluationError,
    Files,
    Person,
    Predictions,
    Report,
    cell,
    means,
)
from regressor.protocols import H36M_LEFT_FIRST, PELVIS_ROW, joint_errors

__all__ = ["evaluate_human36m", "people_of_human36m"]

_FRONTAL = "4"
_MEASURED = tuple(k for k in range(1, 17) if k not in (7, 9))  # not root, torso and head
_RIGHT_FIRST = [H36M_LEFT_FIRST.index("neck" if name == "thorax_h36m" else name) for name in H36M17]


def _frames(data: Path, stride: int) -> Iterator[tuple[str, Person, np.ndarray, str]]:
    """Yield key, person, joints (17, 3) metres before the camera, and the camera's number."""
    folder = annotation_folder(data)
    if folder is None:
        raise EvaluationError(
            f"{data} has no annotations/Human36M_subject<S>_data.json (Hand4Whole's layout)"
        )
    for subject in SUBJECTS["test"]:
        try:
            files, rows = read_subject(folder, subject, stride, with_fits=False)
        except LabelError as error:
            raise EvaluationError(f"{error}; S9 and S11 are both needed") from None
        for image, box in rows:
            number = str(image["cam_idx"])
            camera = camera_of(files.cameras[number])
            joints, _ = frame_joints(camera, files.joints_of(image))
            x, y, width, height = (float(v) for v in box)
            names = ("action_idx", "subaction_idx", "frame_idx", "cam_idx")
            key = "/".join([f"S{subject}", *(str(image[n]) for n in names)])
            photo = folder.parent / "images" / image["file_name"]
            person = Person(key, photo, np.array([x, y, x + width, y + height]),
                            float(camera.focal_px.mean()), camera.center_px)  # fmt: skip
            yield key, person, joints, number


def people_of_human36m(data: Path, stride: int = 5) -> list[Person]:
    """Return everybody that the protocol measures."""
    return [person for _, person, _, _ in _frames(data, stride)]


def evaluate_human36m(
    data: Path, predictions: Predictions, files: Files, stride: int = 5
) -> Report:
    """Measure ``joints`` (N, 17, 3), right leg first, or ``vertices`` (N, V, 3).

    Vertices of SMPL-X go through Hand4Whole's ``J_regressor_h36m_smplx.npy``, those of SMPL through
    ``J_regressor_h36m.npy``.

    Raises:
        EvaluationError: If something is missing.
    """
    frames = list(_frames(data, stride))
    wanted, given = predictions.rows([key for key, _, _, _ in frames])
    truth = np.stack([frames[k][2] for k in wanted])
    cameras = np.array([frames[k][3] for k in wanted])
    predicted = _joints(predictions, given, files)
    errors = joint_errors(predicted, truth, PELVIS_ROW, _MEASURED)
    frontal = cameras == _FRONTAL
    figures = {f"p1_{k}": v for k, v in means(errors).items()}
    figures |= {f"p2_{k}": v for k, v in means({n: e[frontal] for n, e in errors.items()}).items()}
    rows = [("P1, all cameras", cell(figures, "p1_mpjpe"), cell(figures, "p1_pa_mpjpe"),
             str(len(given)))]  # fmt: skip
    rows.append(("P2, frontal", cell(figures, "p2_mpjpe"), cell(figures, "p2_pa_mpjpe"),
                 str(int(frontal.sum()))))  # fmt: skip
    return Report(
        title="Human3.6M, S9 and S11, mm",
        head=("", "MPJPE", "PA-MPJPE", "n"),
        rows=tuple(rows),
        figures=figures,
        count=len(given),
        missing=len(frames) - len(given),
        notes=(
            f"14 joints, root: {PELVIS_ROW.name}; every {stride}th frame, cameras "
            f"{', '.join(sorted(set(cameras)))}",
        ),
    )


def _joints(predictions: Predictions, given: list[int], files: Files) -> np.ndarray:
    if "joints" in predictions.arrays:
        joints = np.asarray(predictions.arrays["joints"][given], float)
        if joints.shape[1:] != (17, 3):
            raise EvaluationError(
                f"joints must be (N, 17, 3), the right leg first ({', '.join(H36M17[:4])} ...), "
                f"got {joints.shape}"
            )
        return joints
    vertices = np.asarray(predictions.need("vertices", "joints")[given], float)
    size = vertices.shape[1]
    if size == 6890:
        rows = files.regressor("J_regressor_h36m.npy", (17, size), "Human3.6M from SMPL")
        return (rows @ vertices)[:, _RIGHT_FIRST]
    return files.regressor("J_regressor_h36m_smplx.npy", (17, size), "Human3.6M") @ vertices
