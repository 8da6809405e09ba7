"""From keypoints alone to SMPL-X: a small network that gives the solver its starts."""
