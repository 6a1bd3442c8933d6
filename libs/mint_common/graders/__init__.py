"""Graders: how OpenAI's fine-tuning API turns an answer and its row into a reward. Pure."""

from mint_common.graders.formula import Formula
from mint_common.graders.grade import Grade, GradedSample, GraderFault, grade
from mint_common.graders.similarity import METRICS
from mint_common.graders.specs import GraderSpec, MultiGrader, StringCheck, TextSimilarity, read_grader

__all__ = [
    "METRICS",
    "Formula",
    "Grade",
    "GradedSample",
    "GraderFault",
    "GraderSpec",
    "MultiGrader",
    "StringCheck",
    "TextSimilarity",
    "grade",
    "read_grader",
]
