"""The methods once more, from their definitions: numpy, token by token, sums over dense arrays.

`live` is what a loss is differentiated by, `frozen` stands where its gradient is stopped; both are
the student's logits `[B, T, V]` and equal, but for the steps of finite differences.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from student_trainer.verify_losses import Batch

Array = NDArray[np.float64]
Config = Any
"""The config class of a method."""


def log_softmax(logits: Array) -> Array:
    return logits - np.log(np.exp(logits).sum())


def whole(log_probs: Array, tail: bool) -> Array:
    probs = np.exp(log_probs)
    return np.append(probs, 1 - probs.sum()) if tail else probs / probs.sum()


def jsd_terms(student: Array, target: Array, mix: float) -> Array:
    if mix == 0:
        return target * np.log(target / student)
    if mix == 1:
        return student * np.log(student / target)
    mixture = mix * target + (1 - mix) * student
    return mix * target * np.log(target / mixture) + (1 - mix) * student * np.log(student / mixture)


@dataclass
class Token:
    """A response token of a batch."""

    batch: Batch
    row: int
    position: int
    live: Array
    frozen: Array

    def of(self, name: str) -> Array:
        """What the targets say of it."""
        value: Array = getattr(self.batch.targets, name)[self.row, ..., self.position].numpy()
        return value

    def on_support(self, name: str) -> Array:
        value: Array = getattr(self.batch.targets, name)[self.row, self.position].numpy()
        return value

    @property
    def scored(self) -> bool:
        return bool(self.of("scored"))

    @property
    def advantage(self) -> float:
        return float(self.of("advantages"))

    @property
    def teacher(self) -> float:
        return float(self.of("teacher"))

    @property
    def chosen(self) -> int:
        return int(self.batch.sampled_ids[self.row, self.position])

    @property
    def log_prob(self) -> float:
        return float(log_softmax(self.live)[self.chosen])

    @property
    def frozen_log_prob(self) -> float:
        return float(log_softmax(self.frozen)[self.chosen])

    @property
    def support(self) -> Array:
        return log_softmax(self.live)[self.on_support("support_ids").astype(int)]

    @property
    def wrong(self) -> Array:
        """Under the wrong hints that exist."""
        valid = self.batch.targets.wrong_valid
        assert valid is not None
        return self.of("wrong")[valid[self.row].numpy()]

    def surrogate(self, advantage: float, epsilon: float, dual_clip: float = np.inf) -> float:
        ratio = np.exp(self.log_prob - float(self.of("old_log_probs")))
        loss = max(-advantage * ratio, -advantage * np.clip(ratio, 1 - epsilon, 1 + epsilon))
        return float(min(loss, -advantage * dual_clip) if advantage < 0 else loss)

    def divergence(self, mix: float, tail: bool, clamp: float = 0.0) -> float:
        terms = jsd_terms(
            whole(self.support, tail), whole(self.on_support("teacher_support"), tail), mix
        )
        return float(np.minimum(terms, clamp or np.inf).sum())


TokenLoss = Callable[[Token, Config], float]


def tokens_of(batch: Batch, live: Array, frozen: Array) -> Iterator[Token]:
    for row, position in np.argwhere(batch.targets.mask.numpy()):
        yield Token(batch, row, position, live[row, position], frozen[row, position])


def dense_loss(config: Config, batch: Batch, live: Array, frozen: Array) -> float:
    """The loss of a batch."""
    tokens = list(tokens_of(batch, live, frozen))
    if config.kind == "rlcsd":
        return rlcsd(tokens, config)
    if config.kind == "srpo":
        return srpo(tokens, config)
    token_loss: TokenLoss = globals()[config.kind]
    return sum(token_loss(token, config) * float(token.of("importance")) for token in tokens) / len(
        tokens
    )


def grpo(token: Token, config: Config) -> float:
    return token.surrogate(token.advantage, config.epsilon, config.dual_clip)


def rlcsd(tokens: list[Token], config: Config) -> float:
    paths: dict[bool, list[float]] = {True: [], False: []}
    for token in tokens:
        advantage, change = token.advantage, 0.0
        if token.scored:
            contrast = token.teacher - np.log(np.exp(token.wrong).mean())
            change = config.beta * config.lam * np.tanh(contrast / config.tau)
            change = np.clip(change, config.residual_clip_low, config.residual_clip_high)
        selected = abs(change) > config.delta
        if selected:
            kept = (advantage + change) * np.sign(advantage) > 0
            advantage = advantage + change if kept else 0.0
        loss = token.surrogate(advantage, config.epsilon) * float(token.of("importance"))
        paths[bool(selected)].append(loss)
    means = {selected: np.mean(losses) if losses else 0.0 for selected, losses in paths.items()}
    return float(means[False] + config.eta * means[True])


def opsd(token: Token, config: Config) -> float:
    if not token.scored:
        return grpo(token, config)
    if config.full_logit_distill:
        return token.divergence(config.beta, config.distill_add_tail, config.jsd_token_clip)
    return float(min((token.teacher - token.log_prob) ** 2, config.jsd_token_clip or np.inf))


def opsd_ectr(token: Token, config: Config) -> float:
    if not token.scored:
        return grpo(token, config)
    tail = config.distill_add_tail
    correct = whole(token.on_support("teacher_support"), tail)
    wrong = whole(token.on_support("wrong_support"), tail)
    floored = np.maximum(np.log(wrong), config.log_w_floor)
    target = correct ** (1 + config.alpha) * np.exp(-config.alpha * floored)
    terms = jsd_terms(whole(token.support, tail), target / target.sum(), config.beta)
    weight = 1.0
    if config.cw_tau:
        difference = float(np.sum(correct * np.log(correct / wrong)))
        weight = difference / (difference + config.cw_tau)
    return weight * float(np.minimum(terms, config.jsd_token_clip or np.inf).sum())


def sdpo_term(token: Token, config: Config) -> float:
    ratio = np.exp(token.frozen_log_prob - float(token.of("old_log_probs")))
    if config.full_logit_distill:
        loss = token.divergence(config.alpha, config.distill_add_tail)
    else:
        loss = (token.frozen_log_prob - token.teacher) * token.log_prob
    return float(loss * min(ratio, config.is_clip))


def sdpo(token: Token, config: Config) -> float:
    return sdpo_term(token, config) if token.scored else grpo(token, config)


def srpo(tokens: list[Token], config: Config) -> float:
    gains = {token.row: [t.advantage for t in tokens if t.row == token.row] for token in tokens}
    routed = [token.scored and np.mean(gains[token.row]) <= 0 for token in tokens]
    weights = [np.exp(-config.beta * float(token.of("teacher_entropy"))) for token in tokens]
    mean = np.mean([w for w, chosen in zip(weights, routed, strict=True) if chosen] or [1.0])
    losses = [
        float(token.of("importance"))
        * (sdpo_term(token, config) * weight / mean if chosen else grpo(token, config))
        for token, weight, chosen in zip(tokens, weights, routed, strict=True)
    ]
    return float(np.mean(losses))


def rlsd(token: Token, config: Config) -> float:
    return reweighted(token, config, token.teacher - token.frozen_log_prob)


def rlsd_ectr(token: Token, config: Config) -> float:
    return reweighted(token, config, token.teacher - float(token.of("wrong")[0]))


def reweighted(token: Token, config: Config, evidence: float) -> float:
    weight = np.exp(np.sign(token.advantage) * evidence) if token.scored else 1.0
    weight = np.clip(weight, 1 - config.epsilon_w, 1 + config.epsilon_w)
    lam = config.lam
    if config.lam_decay_steps:
        lam *= max(0.0, 1 - (token.batch.targets.step - 1) / config.lam_decay_steps)
    return token.surrogate(token.advantage * (1 - lam + lam * weight), config.epsilon)


def opd(token: Token, config: Config) -> float:
    reward = config.task_reward * grpo(token, config)
    if not token.scored:
        return reward
    if config.mode == "policy_gradient":
        ours, teachers = (
            max(log_prob, config.min_log_prob)
            for log_prob in (token.frozen_log_prob, token.teacher)
        )
        advantage = -np.clip(ours - teachers, -config.max_log_ratio, config.max_log_ratio)
        return reward + token.surrogate(advantage, config.epsilon, config.dual_clip)
    mix = {"supervised": 0.0, "reverse_kl": 1.0, "jsd": config.jsd_mix}[config.mode]
    return reward + token.divergence(mix, config.distill_add_tail)
