"""Networks from images or keypoints to SMPL-X: train, predict, evaluate."""
