"""The arrays of one body model, validated, whatever file they came from. Torch-free."""

from dataclasses import dataclass

import numpy as np

from bodymodel.spec import FAMILIES, Family, Gender


@dataclass(frozen=True, eq=False)
class BodyData:
    """One body model file in memory.

    V vertices, F faces, J joints, B betas, E expression components. Lengths in metres, SMPL's
    axes (y up, z out of the chest, x to the person's left), T-pose.

    Attributes:
        family: Which kinematic tree and which sizes, a key of spec.FAMILIES.
        gender: neutral, female or male.
        name: What the rows of the store call it, e.g. ``open-smplx-neutral``.
        sha256: Of the file the arrays were read from. Parameters of bodies with different hashes
            do not mean the same.
        is_open: True for the open body: compatible in format with SMPL-X, not in parameters.
        v_template: (V, 3) float32.
        faces: (F, 3) int32.
        shapedirs: (V, 3, B) float32, metres per unit of betas.
        exprdirs: (V, 3, E) float32, metres per unit of expression; E is 0 where the family
            has none.
        posedirs: (V, 3, 9 (J - 1)) float32, metres per entry of R - I of the joints but the root,
            each R row by row.
        joint_regressor: (J, V) float32, rows sum to 1.
        weights: (V, J) float32 skinning weights, rows sum to 1.
        parents: Parent of each joint, -1 for the root.
        joints: Joint names.
        hand_components: (2, 45, 45) float32, rows are PCA components of the left and the right
            hand's axis-angles; zero rows where the family has no hands.
        hand_means: (2, 45) float32, the mean hand poses.
        landmark_faces: (51,) int64, the face of each of spec.FACE_LANDMARKS; empty where none.
        landmark_bary: (51, 3) float32, its barycentric coordinates.
        contour_faces: (79, 17) int64, the faces of spec.FACE_CONTOUR by yaw: rows 0..39 for yaw 0
            to +39 degrees, 40..78 for -1 to -39; empty where none.
        contour_bary: (79, 17, 3) float32.
        vertex_ids: The vertex of each of spec.VERTEX_KEYPOINTS. Left empty, it becomes the
            family's published ids; a body of another topology brings its own.
    """

    family: Family
    gender: Gender
    name: str
    sha256: str
    is_open: bool
    v_template: np.ndarray
    faces: np.ndarray
    shapedirs: np.ndarray
    exprdirs: np.ndarray
    posedirs: np.ndarray
    joint_regressor: np.ndarray
    weights: np.ndarray
    parents: tuple[int, ...]
    joints: tuple[str, ...]
    hand_components: np.ndarray
    hand_means: np.ndarray
    landmark_faces: np.ndarray
    landmark_bary: np.ndarray
    contour_faces: np.ndarray
    contour_bary: np.ndarray
    vertex_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.vertex_ids:
            object.__setattr__(self, "vertex_ids", FAMILIES[self.family].vertex_ids)

    @property
    def num_betas(self) -> int:
        """B, the number of shape components in use."""
        return self.shapedirs.shape[-1]

    @property
    def num_expression(self) -> int:
        """E, the number of expression components in use."""
        return self.exprdirs.shape[-1]
