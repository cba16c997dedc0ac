"""Training: one loop for all domains, resumable at any instant."""

from scidiff.training.batches import Batch, BatchSource, DenseBatches, SequenceBatches
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import TrainingResult, train

__all__ = ["Batch", "BatchSource", "DenseBatches", "SequenceBatches", "TrainingConfig", "TrainingResult", "train"]
