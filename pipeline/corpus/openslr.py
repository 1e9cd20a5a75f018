"""What openslr.org offers of LibriSpeech: sizes and checksums, so that a mirror can be trusted as well."""

from __future__ import annotations

from dataclasses import dataclass

OPENSLR_URL = "https://www.openslr.org/resources/"
# FLAC does not compress further: an archive unpacks to its own size and a little for names and padding.
_UNPACKED_FACTOR = 1.04


@dataclass(frozen=True, slots=True)
class Archive:
    """One file to fetch.

    folder : below OPENSLR_URL     num_bytes : of the file, approximate for LM_TEXT
    checksum : "<hashlib name>:<hex>"     utterances : that a whole subset holds; 0 for a single file
    """

    file: str
    folder: str
    num_bytes: int
    checksum: str
    utterances: int = 0

    @property
    def is_unpacked(self) -> bool:
        """True for an archive of speech, False for a file that is used as it is."""
        return self.utterances > 0

    @property
    def unpacked_bytes(self) -> int:
        """Disk that the extracted folder takes, approximately; 0 for a file used as it is."""
        return round(self.num_bytes * _UNPACKED_FACTOR) if self.is_unpacked else 0


def _subset(name: str, num_bytes: int, utterances: int, sha256: str) -> tuple[str, Archive]:
    return name, Archive(f"{name}.tar.gz", "12", num_bytes, f"sha256:{sha256}", utterances)


# sha256: torchaudio 2.11, torchaudio/datasets/librispeech.py. Bytes and utterances: the released archives.
SUBSETS = dict(
    (
        _subset(
            "dev-clean",
            337_926_286,
            2703,
            "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
        ),
        _subset(
            "dev-other",
            314_305_928,
            2864,
            "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
        ),
        _subset(
            "test-clean",
            346_663_984,
            2620,
            "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
        ),
        _subset(
            "test-other",
            328_757_843,
            2939,
            "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
        ),
        _subset(
            "train-clean-100",
            6_387_309_499,
            28_539,
            "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
        ),
        _subset(
            "train-clean-360",
            23_049_477_885,
            104_014,
            "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
        ),
        _subset(
            "train-other-500",
            30_593_501_606,
            148_688,
            "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
        ),
    )
)

# 803 million words of normalised books; openslr.org publishes no checksum of it, this one is widely used.
LM_TEXT = "lm-text"
LM_TEXT_ARCHIVE = Archive(
    "librispeech-lm-norm.txt.gz",
    "11",
    1_507_000_000,
    "md5:c83c64c726a1aedfe65f80aa311de402",
)
TABLE = {**SUBSETS, LM_TEXT: LM_TEXT_ARCHIVE}
