"""The tokenizer of a teacher from scratch: a given vocab.txt, pieces trained on the text, or whole words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from teacher_cache.common.files import FILES
from teacher_cache.errors import CacheError
from teacher_cache.teacher.speakable import SPOKEN_CHARACTERS

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 1000  # characters; WordPiece calls a longer word unknown


def make_tokenizer(kind: str, size: int, path: Path | None, sentences: Sequence[str]) -> Any:
    """A fast BERT tokenizer: "words", "wordpiece" (at most `size` pieces), or the vocab.txt at `path`.

    Raises CacheError for an unknown kind, and for a vocab.txt that is absent or lacks a special piece.
    """
    if kind == "words":
        return _word_tokenizer(sentences)
    if path is not None:
        return _bert_tokenizer(_read_vocabulary(path))
    if kind == "wordpiece":
        return _bert_tokenizer(_train_wordpiece(sentences, size))
    raise CacheError(
        f"vocabulary {kind!r} is neither 'words' nor 'wordpiece' nor a vocab.txt below the data root"
    )


def _read_vocabulary(path: Path) -> list[str]:
    if not path.is_file():
        raise CacheError(f"{path}: no such vocabulary; put it there, or set vocabulary to 'wordpiece'")
    pieces = [piece for _, piece in FILES.lines(path, "give a WordPiece vocabulary, a piece a line")]
    lacking = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if lacking:
        raise CacheError(f"{path}: lacks {', '.join(lacking)}; give a WordPiece vocabulary, a piece a line")
    return pieces


def _bert_tokenizer(pieces: Sequence[str]) -> Any:
    from transformers import BertTokenizerFast

    return BertTokenizerFast(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=True)


def _word_tokenizer(sentences: Iterable[str]) -> Any:
    """Every whitespace-delimited word of the text is one piece, commonest first; any other is spelt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    count = Counter(word for sentence in sentences for word in sentence.split())
    words = sorted(count, key=lambda word: (-count[word], word))
    characters = _characters(words)
    pieces = dict.fromkeys(
        [*SPECIAL_PIECES, *words, *characters, *(f"##{character}" for character in characters)]
    )
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # BERT's own would cut "don't" in three
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(piece, vocabulary[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _characters(words: Iterable[str]) -> list[str]:
    return sorted({*SPOKEN_CHARACTERS, *(character for word in words for character in word)})


def _train_wordpiece(sentences: Sequence[str], size: int) -> list[str]:
    """Pieces of BERT's WordPiece trained on the text, specials first."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = _characters(set(" ".join(sentences).split()))
    # Told as special, they get their ids in this order: left alone, ids and tied merges differ between runs.
    fixed = [*SPECIAL_PIECES, *characters, *(f"##{character}" for character in characters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=fixed,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    ids: dict[str, int] = backend.get_vocab()
    return sorted(ids, key=ids.__getitem__)
