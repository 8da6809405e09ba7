"""The body itself: model files, joints, kinematics, cameras, keypoints, rendering, metrics."""
