"""Graders: how OpenAI's fine-tuning API turns an answer and its row into a reward. Pure.

`mint_common.runtime.graders` runs them: source of users, and questions to models, run nowhere else.
"""

from mint_common.graders.formula import MAX_REWARD, Formula
from mint_common.graders.grade import Fault, Grade, GradedSample, GraderFault, Variables, combine, grade_plain
from mint_common.graders.judging import score_in
from mint_common.graders.similarity import METRICS
from mint_common.graders.specs import (
    GraderNotSupported,
    GraderSpec,
    JudgeSampling,
    MultiGrader,
    PythonGrader,
    ScoreModel,
    SingleGrader,
    StringCheck,
    TextSimilarity,
    parts_of,
    read_grader,
)

__all__ = [
    "MAX_REWARD",
    "METRICS",
    "Fault",
    "Formula",
    "Grade",
    "GradedSample",
    "GraderFault",
    "GraderNotSupported",
    "GraderSpec",
    "JudgeSampling",
    "MultiGrader",
    "PythonGrader",
    "ScoreModel",
    "SingleGrader",
    "StringCheck",
    "TextSimilarity",
    "Variables",
    "combine",
    "grade_plain",
    "parts_of",
    "read_grader",
    "score_in",
]
