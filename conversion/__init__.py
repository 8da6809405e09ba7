"""Conversion: parameters and meshes of one body of the SMPL family into another's."""
