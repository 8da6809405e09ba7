"""Models on disk: weights as safetensors with what is needed to use them. No code, no pickle."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bodymodel.body import BodyData
from regressor.backbones import BackboneConfig
from regressor.expose import Expose, ExposeConfig

FORMAT = "pseudogt-expose-1"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file of weights says.

    Attributes:
        config: Of the model.
        body_sha256: Of the body that its shapes belong to.
        state: Arrays by name.
        notes: How it was made: steps, sources, figures.
    """

    config: ExposeConfig
    body_sha256: str
    state: dict[str, Tensor]
    notes: dict[str, str]


def save_checkpoint(
    path: Path, model: Expose, body_sha256: str, notes: dict[str, str], half: bool = False
) -> None:
    """Write a model, whole or not at all.

    Args:
        path: Of the ``.safetensors`` file.
        model: Whose weights.
        body_sha256: Of its body.
        notes: Provenance, as text.
        half: In half precision, for files that are shipped.
    """
    from safetensors.torch import save_file

    state = {
        k: (v.half() if half and v.is_floating_point() else v).contiguous().cpu()
        for k, v in model.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "body_sha256": body_sha256,
        **notes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(state, part, metadata)
    part.replace(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of weights.

    Raises:
        ValueError: If it is not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from None
    if metadata.pop("format", "") != FORMAT:
        raise ValueError(
            f"{path} is no checkpoint of this regressor; python -m regressor.train writes them"
        )
    config = _config(json.loads(metadata.pop("config")))
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return Checkpoint(config, metadata.pop("body_sha256"), state, metadata)


def _config(values: dict) -> ExposeConfig:
    for part in ("body", "hand", "head"):
        values[part]["widths"] = tuple(values[part]["widths"])
        values[part]["depths"] = tuple(values[part]["depths"])
        values[part] = BackboneConfig(**values[part])
    return ExposeConfig(**values)


def load_model(
    body: BodyData, path: Path, device: torch.device | str = "cpu"
) -> tuple[Expose, Checkpoint]:
    """Build a model from its file, ready to predict.

    Args:
        body: The body it poses.
        path: Of save_checkpoint, as regressor.train writes it.
        device: Where it runs.

    Raises:
        ValueError: If the file cannot be used, or its shapes belong to another body.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.body_sha256 != body.sha256:
        raise ValueError(
            f"the weights were trained on another body ({checkpoint.body_sha256[:12]}) than "
            f"{body.name} ({body.sha256[:12]}); their shapes do not mean the same. Train on fits "
            "of this body, or use the body of the weights"
        )
    model = Expose(body, checkpoint.config)
    model.load_state_dict(checkpoint.state)
    return model.to(device).eval(), checkpoint
