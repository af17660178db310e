"""Training objectives: functions of a model's outputs and of targets, never fields of its config."""
