"""Fine-tuning on top of transformers.Trainer: one module per task."""
