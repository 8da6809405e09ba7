"""MediaPipe Holistic and face detection on one image, in this process. Torch-free.

MediaPipe 0.10.21 is the last release whose wheel carries these models.

What MediaPipe says and what it does not:

* Pose points have a visibility in 0..1; that is their confidence.
* Hands and face have none. Holistic reports a hand or a face when it believes in it by more than
  0.5. A hand gets 0.7 times the visibility of its wrist (at least 0.3 of it: the hand was found
  after all), a face 0.8 times that of nose and eyes, likewise.
* Fingers of a hand that is a few pixels large are guesses: where the palm is shorter than
  ``FULL_PALM_PX``, confidence falls in proportion.
* A hand far from the wrist of the pose, much too large or small for the body, or lying on the
  other hand, and a face far from the nose, belong to something else and are dropped.
* A point outside the pixels that MediaPipe was shown was not seen: confidence 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bodymodel.keypoints import CONVENTIONS, Keypoints2D

__all__ = ["Detection", "HolisticDetector", "detection_from_results"]

CONVENTION = "mediapipe_holistic543"
HAND_CONFIDENCE, FACE_CONFIDENCE, LEAST_SHARE = 0.7, 0.8, 0.3
FULL_PALM_PX = 16.0

# Distances below are in units of the body's scale: the longer of trunk and shoulder width, in
# pixels. Measured on 60 photos: hand root to pose wrist 0.00-0.11, nose to nose 0.01-0.11, palm
# 0.09-0.32 where the hand is right.
MAX_WRIST_GAP, MAX_NOSE_GAP = 0.25, 0.3
MIN_PALM, MAX_PALM = 0.05, 0.5

_POSE = {name: i for i, name in enumerate(CONVENTIONS["mediapipe_pose33"])}
_LEFT_HAND, _RIGHT_HAND, _FACE = slice(33, 54), slice(54, 75), slice(75, 543)
_PALM = (0, 9)  # wrist and knuckle of the middle finger, in the hand's 21
_FACE_NOSE_TIP = 4
MIN_CROP_PX = 16


@dataclass(frozen=True, eq=False)
class Detection:
    """One person as MediaPipe sees them.

    Attributes:
        keypoints: ``mediapipe_holistic543``, in pixels of the full image.
        world: (33, 3) float32, the pose points in metres about the middle of the hips, axes of the
            image (x right, y down, z away); a learned guess.
    """

    keypoints: Keypoints2D
    world: np.ndarray


class HolisticDetector:
    """The two MediaPipe graphs, loaded once. Not for more than one thread.

    Results do not depend on the images seen before (static image mode).
    """

    def __init__(self) -> None:
        import mediapipe

        solutions = mediapipe.solutions
        self._holistic = solutions.holistic.Holistic(static_image_mode=True, model_complexity=1)
        self._face = solutions.face_detection.FaceDetection(
            model_selection=1, min_detection_confidence=0.5
        )

    def person(self, rgb: np.ndarray, box: np.ndarray | None = None) -> Detection | None:
        """Find the most prominent person in an image, or in a box of it.

        Args:
            rgb: (H, W, 3) uint8.
            box: (4,) x0, y0, x1, y1 in pixels; what is outside the image is cut off.
        """
        crop, corner = _crop(rgb, box)
        if min(crop.shape[:2]) < MIN_CROP_PX:
            return None
        return detection_from_results(self._holistic.process(crop), crop.shape[:2], corner)

    def faces(self, rgb: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
        """Find faces: (F, 5) float32 x0, y0, x1, y1 in pixels of the image, and score."""
        crop, corner = _crop(rgb, box)
        height, width = crop.shape[:2]
        if min(height, width) < MIN_CROP_PX:
            return np.zeros((0, 5), np.float32)
        rows = []
        for found in self._face.process(crop).detections or ():
            area = found.location_data.relative_bounding_box
            x, y = area.xmin * width + corner[0], area.ymin * height + corner[1]
            rows.append((x, y, x + area.width * width, y + area.height * height, found.score[0]))
        return np.array(rows, np.float32).reshape(-1, 5)


def _crop(rgb: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, tuple[int, int]]:
    if box is None:
        return np.ascontiguousarray(rgb), (0, 0)
    height, width = rgb.shape[:2]
    low = np.clip(np.floor(box[:2]), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(box[2:]), 0, (width, height)).astype(int)
    crop = np.ascontiguousarray(rgb[low[1] : high[1], low[0] : high[0]])
    return crop, (int(low[0]), int(low[1]))


def detection_from_results(
    results: Any, size: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> Detection | None:
    """Turn what ``Holistic.process`` returns for a crop into a Detection in the full image.

    Args:
        results: Has ``pose_landmarks``, ``left_hand_landmarks``, ``right_hand_landmarks``,
            ``face_landmarks``, ``pose_world_landmarks``; each None or with a ``landmark`` list of
            normalised x, y (0..1 of the crop; the origin is the corner of the first pixel).
        size: Height and width of the crop, pixels.
        corner: Of the crop in the full image, x and y.

    Returns:
        The person, or None if there is no pose.
    """
    if not results.pose_landmarks:
        return None
    points = np.zeros((543, 3), np.float64)
    pose = results.pose_landmarks.landmark
    points[:33, :2] = [(p.x, p.y) for p in pose]
    points[:33, 2] = [p.visibility for p in pose]
    for part, where in (
        (results.left_hand_landmarks, _LEFT_HAND),
        (results.right_hand_landmarks, _RIGHT_HAND),
        (results.face_landmarks, _FACE),
    ):
        if part:
            # The face mesh with refined irises has ten points more.
            landmarks = part.landmark[: where.stop - where.start]
            points[where, :2] = [(p.x, p.y) for p in landmarks]
            points[where, 2] = 1
    points[:, :2] *= (size[1], size[0])
    _rate_parts(points)
    inside = ((points[:, :2] >= 0) & (points[:, :2] <= (size[1], size[0]))).all(-1)
    points[~inside, 2] = 0
    points[:, :2] += corner

    world = np.full((33, 3), np.nan, np.float32)
    if getattr(results, "pose_world_landmarks", None):
        world[:] = [(p.x, p.y, p.z) for p in results.pose_world_landmarks.landmark]
    return Detection(Keypoints2D(CONVENTION, points.astype(np.float32)), world)


def _rate_parts(points: np.ndarray) -> None:
    """Set the confidences of hands and face, 0 where they contradict the pose; in place."""

    def pose(*names: str) -> np.ndarray:
        return points[[_POSE[name] for name in names]].mean(0)

    trunk = pose("left_shoulder", "right_shoulder")[:2] - pose("left_hip", "right_hip")[:2]
    shoulders = pose("left_shoulder")[:2] - pose("right_shoulder")[:2]
    scale = max(np.linalg.norm(trunk), np.linalg.norm(shoulders), 1e-6)

    gaps = {}
    for where, side in ((_LEFT_HAND, "left"), (_RIGHT_HAND, "right")):
        hand, wrist = points[where], pose(f"{side}_wrist")
        if not hand[0, 2]:
            continue
        gap = np.linalg.norm(hand[0, :2] - wrist[:2]) / scale
        palm_px = np.linalg.norm(hand[_PALM[0], :2] - hand[_PALM[1], :2])
        # A palm seen end on is short, so the hand's extent counts too.
        palm_px = max(palm_px, 0.5 * np.ptp(hand[:, :2], axis=0).max())
        share = max(wrist[2], LEAST_SHARE) * min(1.0, palm_px / FULL_PALM_PX)
        hand[:, 2] = HAND_CONFIDENCE * share
        if gap > MAX_WRIST_GAP or not MIN_PALM <= palm_px / scale <= MAX_PALM:
            hand[:, 2] = 0
        else:
            gaps[side] = (gap, where, palm_px)
    if len(gaps) == 2:
        apart = points[_LEFT_HAND, :2] - points[_RIGHT_HAND, :2]
        one_palm = max(gaps["left"][2], gaps["right"][2])
        if np.linalg.norm(apart, axis=-1).mean() < 0.5 * one_palm:
            points[max(gaps.values(), key=lambda g: g[0])[1], 2] = 0

    face = points[_FACE]
    if face[0, 2]:
        head = pose("nose", "left_eye", "right_eye")
        gap = np.linalg.norm(face[_FACE_NOSE_TIP, :2] - pose("nose")[:2]) / scale
        face[:, 2] = FACE_CONFIDENCE * max(head[2], LEAST_SHARE) if gap <= MAX_NOSE_GAP else 0
