"""Graders: how OpenAI's fine-tuning API turns an answer and its row into a reward. Pure.

`mint_common.runtime.graders` runs them: source of users, and questions to models, run nowhere else.
"""

from mint_common.graders.formula import MAX_REWARD
from mint_common.graders.grade import Grade, GradedSample, GraderFault
from mint_common.graders.specs import GraderSpec, PythonGrader, read_grader
