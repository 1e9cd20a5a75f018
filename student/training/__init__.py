"""A training run: its steps, its dev measurements, its folder and checkpoints."""
