"""Names of the meshes of predictions."""

import numpy as np
from PIL import Image

from curation.file_stems import FolderStems
from curation.schema import PARAMETERS, POSE_SHAPES
from regressor.predicted_files import write_glbs


def person(body, name, index=0):
    sizes = {"betas": body.num_betas, "expression": body.num_expression, "transl": 3}
    row = {n: np.zeros(POSE_SHAPES.get(n, sizes.get(n)), np.float32) for n in PARAMETERS}
    row["betas"] += len(name)  # another body in each photo
    return {**row, "image_path": name, "person_index": index, "has_fit": True}


def test_photos_of_one_name_have_a_mesh_each(toy_body, tmp_path):
    photos, meshes = tmp_path / "photos", tmp_path / "meshes"
    (photos / "x").mkdir(parents=True)
    names = ("a.jpg", "a.webp", "b.jpg", "x/a.jpg")
    for name in names:
        Image.new("RGB", (8, 8)).save(photos / name)
    (photos / "b.csv").write_text("no photo")
    rows = [person(toy_body, name) for name in names] + [person(toy_body, "b.jpg", 1)]
    assert write_glbs(rows, meshes, toy_body, FolderStems(photos)) == 5
    found = {path.relative_to(meshes).as_posix() for path in meshes.rglob("*.glb")}
    assert found == {"a.jpg_0.glb", "a.webp_0.glb", "b_0.glb", "b_1.glb", "x/a_0.glb"}
    assert (meshes / "a.jpg_0.glb").read_bytes() != (meshes / "a.webp_0.glb").read_bytes()
