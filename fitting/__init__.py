"""Keypoints to SMPL-X by optimisation."""
