"""Which pieces a teacher may name and how a passage ends, as the recipe's `special_tokens` says it."""

from __future__ import annotations

from itertools import product

from teacher_cache.config import PASSAGE_ENDS, RANKED_PIECES, CacheConfig
from teacher_cache.errors import CacheError

# Of every cache before there was a choice: not a letter of it may change, or they lose their fingerprints.
SPECIAL_TOKEN_POLICY = (
    "left, text and right are one text within the tokenizer's own frame, every word behind a space; "
    "special and unused pieces are never ranked, their mass is in the tail"
)
_RANKED = {
    "all": "",
    "speakable": "; pieces of other characters than a-z and apostrophe have no probability, and the others' "
    "sum to one",
}
_ENDS = {"none": "", "full_stop": "; a full stop stands behind the last part"}
_SETTINGS = {
    SPECIAL_TOKEN_POLICY + _RANKED[ranked] + _ENDS[end]: (ranked, end)
    for ranked, end in product(RANKED_PIECES, PASSAGE_ENDS)
}


def special_token_policy(config: CacheConfig) -> str:
    """What a recipe says of ranked_pieces and passage_end; of the defaults what it said before either was."""
    return SPECIAL_TOKEN_POLICY + _RANKED[config.ranked_pieces] + _ENDS[config.passage_end]


def settings_of_policy(policy: str) -> tuple[str, str]:
    """The ranked_pieces and passage_end of a recipe. CacheError for words that this version never writes."""
    if policy not in _SETTINGS:
        raise CacheError(
            f"special-token policy {policy[:80]!r} is none of this version's; use the version that built the "
            "cache, or build it again with `bert2ctc cache build`"
        )
    return _SETTINGS[policy]


def shown_policy(policy: str) -> str:
    """The policy in the words of the [cache] table, for people; one that nobody knows as it is."""
    if policy not in _SETTINGS:
        return policy
    ranked, end = _SETTINGS[policy]
    return f"ranked_pieces {ranked}, passage_end {end}"
