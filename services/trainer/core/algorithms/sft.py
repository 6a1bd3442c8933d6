"""Supervised fine-tuning: every answer is imitated."""

from services.trainer.core.algorithms.algorithm import TrainingAlgorithm
from services.trainer.core.batch import build_sft_batch
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY

TRAINING = TrainingAlgorithm(loss=CROSS_ENTROPY, build_batch=build_sft_batch)
