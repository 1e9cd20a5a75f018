"""What benchmarks/codec_cost.py does to a signal."""

from __future__ import annotations

import numpy as np
import pytest
from codec_cost import low_passed, through_mp3

RATE_HZ = 16_000
SECONDS = np.arange(RATE_HZ) / RATE_HZ
LOW, HIGH = (0.3 * np.sin(2 * np.pi * hz * SECONDS) for hz in (1_000, 7_000))


def test_a_low_pass_takes_what_lies_above_it_and_nothing_else() -> None:
    assert low_passed(LOW + HIGH, RATE_HZ, 5_750) == pytest.approx(LOW, abs=1e-9)
    assert low_passed(LOW + HIGH, RATE_HZ, 8_000) == pytest.approx(LOW + HIGH, abs=1e-9)


def test_mp3_is_as_long_as_what_was_coded_nearly_it_and_smaller_the_more_it_is_compressed() -> None:
    noise = low_passed(np.random.default_rng(0).normal(0, 0.1, RATE_HZ), RATE_HZ, 5_750)
    (fine, fine_bytes), (coarse, coarse_bytes) = (
        through_mp3(LOW + noise, RATE_HZ, compression) for compression in (0.0, 0.9)
    )
    assert len(fine) == len(coarse) == RATE_HZ and coarse_bytes < fine_bytes < 2 * RATE_HZ
    lost = [np.square(decoded - LOW - noise).mean() / np.square(noise).mean() for decoded in (fine, coarse)]
    assert lost[0] < 0.1 and lost[0] < lost[1] < 0.5
