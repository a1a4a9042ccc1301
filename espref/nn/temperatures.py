r"""Temperatures that mean the same at every size.

Scores of a head at initialisation are N(0, s^2). Two numbers say how far ESP attention is from the mean of the values:
over which share of the tokens a sort is soft, and how many of the L = d slices have a part in the average.

*Tau.* N scores have expected gaps of s / (N phi) where their density is phi / s, so a kernel of range tau averages over
a share of the tokens of order tau / s, at any N: tau is a multiple of s, and not of the gap. Slices are as good as
independent, and the average of d of them deviates d^(-1/2) times as much from the mean as one does. Tau = s d^(1/8) / 5
leaves a part of that to beta, because a smaller tau has larger gradients.

*Beta.* The costs of the slices are spread as

$$\sigma_c^2 = s^4 \Bigl( \frac{1.74\, d}{f N^2} + \frac{3.6 + 0.26 f^2 d}{N} \Bigr), \qquad f = \tau / s :$$

products of the d - 1 coordinates that are not sorted, averaged over f N tokens; the product of the one that is; and the
squares of tokens, of which a soft sort counts some more than once. The constants are measured. Beta is kappa / sigma_c,
so that weights are e^(-kappa z) with z of unit spread, and kappa = 0.4 + 0.52 log(d / 16), within [1/4, 2.4], leaves
few enough slices, but not one alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Temperatures(NamedTuple):
    """What :func:`scale_free` returns."""

    tau: float | Tensor
    beta: float | Tensor  # as many as numbers of tokens were given


def scale_free(head_dim: int, n_tokens: float | Tensor, *, spread: float = 1.0) -> Temperatures:
    r"""Temperatures of ESP attention with scores N(0, spread^2) along the axes, for the derivation above.

    Parameters
    ----------
    head_dim : int
        d, the number of coordinates and of slices.
    n_tokens : float or tensor
        N, the number of valid tokens.
    spread : float
        s, the standard deviation of the scores.

    Returns
    -------
    Temperatures
        tau, in units of scores, and beta, in units of 1 / score^2.

    Examples
    --------
    >>> from espref.nn.temperatures import scale_free
    >>> tau, beta = scale_free(64, 256)
    >>> round(tau, 4), round(beta, 3)
    (0.3364, 6.89)
    """
    f = head_dim**0.125 / 5
    kappa = min(max(0.25, 0.4 + 0.52 * math.log(head_dim / 16)), 2.4)
    variance = 1.74 * head_dim / (f * n_tokens**2) + (3.6 + 0.26 * f**2 * head_dim) / n_tokens
    return Temperatures(f * spread, kappa / (spread**2 * variance**0.5))
