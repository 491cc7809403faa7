"""Which teacher gets a job: where its contexts were last seen, unless others have far less to do.

A teacher that has read a context keeps it in its prefix cache, so the jobs of one group should meet
again. Three things say where, the first that knows wins:

1. Memory: the teacher that got most of the job's contexts, by tokens, the last time. Whole contexts
   are remembered, and the opening that all contexts of a job share.
2. Weights: a job that names weights keeps to some of the teachers, so that not everyone loads
   everybody's. With W names of late and N teachers, a name has N/W of them, but at least one.
3. Rendezvous hashing (Thaler and Ravishankar 1998, "Using name-based mappings to increase hit
   rates") of the weights' name and the opening: the same in every dispatcher, with or without a
   memory, and a teacher that comes or goes moves no other teacher's jobs.

The opening is what all contexts of the job begin with: the chat template and the problem, up to
where the hints differ. It is cut to whole blocks, because hints often begin alike and caches keep
whole blocks only. Of a job with one context, or with contexts that share less than a block, it is
the first context.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from counterhint.jobs import Weights
from counterhint.tensors import TokenIds

BLOCK_TOKENS = 16
"""Tokens of a block: vLLM's default, and the finest that caches are known to keep."""
REMEMBERED = 65_536
"""Most contexts and openings that are remembered; the least recently used are forgotten."""
LATE_JOBS = 256
"""How many of the last jobs say which weights are in use."""


class Router:
    """Chooses teachers for jobs, and remembers what it chose.

    Args:
        teachers: the addresses of all teachers, there or not. Dispatchers that share a queue must
            spell them alike.
        imbalance: how much more loaded than the least loaded teacher one may be, as a share of its
            capacity, and still get a job because of what it has read.
    """

    def __init__(self, teachers: Sequence[str], imbalance: float) -> None:
        self._teachers = teachers
        self._imbalance = imbalance
        self._seen: OrderedDict[bytes, str] = OrderedDict()
        self._late_weights: deque[str] = deque(maxlen=LATE_JOBS)

    def choose(
        self, contexts: Sequence[TokenIds], weights: Weights | None, loads: Mapping[str, float]
    ) -> str:
        """The teacher for a job, which is remembered as the one that has read its contexts.

        Args:
            contexts: the job's, at least one.
            weights: those that it names.
            loads: tokens in flight ÷ capacity of each teacher that can take the job, at least one.
        """
        if weights is not None:
            self._late_weights.append(weights.name)
        texts = [context.tobytes() for context in contexts]
        opening = shared_opening(texts)
        read = _digests([*texts, opening], weights)
        wanted = self._wanted(read, opening, weights, list(loads))
        if loads[wanted] - min(loads.values()) > self._imbalance:
            wanted = min(loads, key=lambda teacher: loads[teacher])
        for digest in read:
            self._seen[digest] = wanted
            self._seen.move_to_end(digest)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return wanted

    def _wanted(
        self,
        read: Mapping[bytes, int],
        opening: bytes,
        weights: Weights | None,
        teachers: Sequence[str],
    ) -> str:
        """The teacher that a job belongs to, of those that can take it, whatever their load."""
        known = dict.fromkeys(teachers, 0)
        for digest, size in read.items():
            teacher = self._seen.get(digest)
            if teacher in known:
                known[teacher] += size
        most = max(known.values())
        best = [teacher for teacher in teachers if known[teacher] == most]
        if len(best) == 1:
            return best[0]
        homes = self._homes(weights)
        name = "" if weights is None else weights.name
        return max(best, key=lambda teacher: (teacher in homes, _rank(teacher, name, opening)))

    def _homes(self, weights: Weights | None) -> Sequence[str]:
        """The teachers that a job's weights keep to while these keep up."""
        if weights is None:
            return self._teachers
        number = max(1, len(self._teachers) // len(set(self._late_weights)))
        ranked = sorted(self._teachers, key=lambda teacher: _rank(teacher, weights.name))
        return ranked[-number:]


def shared_opening(contexts: Sequence[bytes]) -> bytes:
    """The whole blocks that all contexts begin with; the first context when that is none.

    Contexts are token ids as little-endian int32.
    """
    # What the first and the last in any alphabetical order share, all between them share.
    first, last = min(contexts), max(contexts)
    shortest = min(len(first), len(last))
    differs = np.frombuffer(first, np.uint8, shortest) != np.frombuffer(last, np.uint8, shortest)
    shared = int(differs.argmax()) if differs.any() else shortest
    whole_blocks = shared - shared % (4 * BLOCK_TOKENS)
    return first[:whole_blocks] if whole_blocks and len(contexts) > 1 else contexts[0]


def _digests(texts: Sequence[bytes], weights: Weights | None) -> dict[bytes, int]:
    """Names and sizes of tokens as some weights have read them: no cache is of use to others."""
    hashed = blake2b(digest_size=16)
    if weights is not None:
        hashed.update(f"{weights.name}\0{weights.revision}\0".encode())
    read = {}
    for text in texts:
        of_text = hashed.copy()
        of_text.update(text)
        read[of_text.digest()] = len(text)
    return read


def _rank(teacher: str, name: str, key: bytes = b"") -> int:
    """The highest one wins."""
    hashed = blake2b(f"{len(teacher)}:{teacher}{name}\0".encode() + key, digest_size=8)
    return int.from_bytes(hashed.digest())
