"""On-policy distillation. T = target positions, V = vocabulary."""
# ruff: noqa: N803, N806  # tensors carry their shape in their name

from torch import Tensor
from torch.nn.functional import log_softmax


def reverse_kl(student_TV: Tensor, teacher_TV: Tensor, temperature: float) -> Tensor:
    """Return KL(p_t || q_t) = sum_v p_tv (log p_tv - log q_tv) of every position, over the whole vocabulary.

    p = softmax(student / temperature), q = softmax(teacher / temperature): the policy comes first, so that it
    moves to the teacher's likely tokens and need not cover all of them. Gu et al. 2023, "MiniLLM"
    (arXiv 2306.08543, eq. 1); Agarwal et al. 2023 (arXiv 2306.13649); the temperature is Hinton et al.'s
    (2015, arXiv 1503.02531), without their factor of its square. Both sides are log-probabilities or logits:
    a constant added to a whole row does not matter.
    """
    student_TV = log_softmax(student_TV / temperature, dim=-1)
    teacher_TV = log_softmax(teacher_TV / temperature, dim=-1)
    return (student_TV.exp() * (student_TV - teacher_TV)).sum(dim=-1)
