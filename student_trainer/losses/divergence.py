"""Divergences between two distributions that are known on a support of k tokens only.

The rest of the vocabulary is either put into one further bucket, the tail, or left out, both sides
renormalised over the support.
"""

import math

import torch
from torch import Tensor

LARGEST_LOG_MASS = -1e-7
"""Bound on the log of the support's probability, so that the tail's log stays finite: the tail
holds at least 1e-7. Where the bound is in force the tail gives no gradient."""


def closed(log_probs: Tensor, *, tail: bool) -> Tensor:
    """Log probs of a support as those of a whole distribution.

    Args:
        log_probs: `[..., k]`.
        tail: whether to add a bucket for all other tokens, or to renormalise.

    Returns:
        `[..., k + 1]` with a tail, `[..., k]` without.
    """
    log_mass = log_probs.logsumexp(-1, keepdim=True)
    if not tail:
        return log_probs - log_mass
    # log(1 - mass): expm1 keeps the digits of a mass close to 1.
    rest = torch.log(-torch.expm1(log_mass.clamp(max=LARGEST_LOG_MASS)))
    return torch.cat([log_probs, rest], dim=-1)


def kl_terms(of: Tensor, to: Tensor) -> Tensor:
    """The terms of KL(of‖to), p_v · (log p_v − log q_v), `[..., v]`, from log probs."""
    return of.exp() * (of - to)


def jsd_terms(student: Tensor, target: Tensor, mix: float) -> Tensor:
    """The terms of the generalised JSD, whose sum over v is it.

    It is β·KL(target‖m) + (1−β)·KL(student‖m) with m = β·target + (1−β)·student. Its ends are
    defined as KL(target‖student) for β = 0 (forward) and KL(student‖target) for β = 1 (reverse),
    the limits of the whole divided by β and by 1−β (Agarwal et al., arXiv 2306.13649).

    Args:
        student: log probs of a whole distribution, `[..., v]`, with gradient.
        target: log probs of the other, `[..., v]`.
        mix: β.

    Returns:
        `[..., v]`, in nats.
    """
    if mix == 0:
        return kl_terms(target, student)
    if mix == 1:
        return kl_terms(student, target)
    mixture = torch.logaddexp(student + math.log1p(-mix), target + math.log(mix))
    return mix * kl_terms(target, mixture) + (1 - mix) * kl_terms(student, mixture)
