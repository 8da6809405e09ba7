"""The body itself: model files, joints, kinematics, cameras, keypoints, rendering, metrics."""

from importlib import import_module

# Loaded when first used: half of the house wants the names and must not pay for torch.
_PUBLIC = {
    "BodyData": "body",
    "BodyModel": "model",
    "BodyOutput": "model",
    "BodyParams": "params",
    "Keypoints2D": "keypoints",
    "load_body": "files",
}

__all__ = ["BodyData", "BodyModel", "BodyOutput", "BodyParams", "Keypoints2D", "load_body"]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module(f"bodymodel.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'bodymodel' has no attribute {name!r}")
