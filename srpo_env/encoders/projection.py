"""Random projections to fewer dimensions, which nearly keep distances."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def random_projection(num_inputs: int, num_outputs: int, seed: int) -> npt.NDArray[np.float32]:
    """Draws a matrix ``(num_inputs, num_outputs)``; one seed and NumPy version give one matrix.

    Entries of variance ``1 / num_outputs`` keep squared distances in expectation
    (Johnson-Lindenstrauss).
    """
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((num_inputs, num_outputs), dtype=np.float32)
    return matrix / np.float32(np.sqrt(num_outputs))
