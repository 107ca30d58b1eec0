"""A continuous world with known information: a Gaussian channel, and score matrices drawn from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remid.types import FloatArray


@dataclass(frozen=True, slots=True)
class GaussianWorld:
    """X ~ N(0, I), Y = a X + sqrt(1 - a^2) noise in `dimensions` dimensions, a the correlation, 0 <= a < 1.

    I(X;Y) = -d/2 ln(1 - a^2) nats. With the exact conditional as q, CLUB's expectation is d a^2 / (1 - a^2): with
    x' independent of (x, y), E[log q(y|x) - log q(y|x')] = d (E(y - a x')^2 - E(y - a x)^2) / (2 (1 - a^2)) and
    E(y - a x')^2 = 1 + a^2, E(y - a x)^2 = 1 - a^2.
    """

    correlation: float
    dimensions: int

    @property
    def information(self) -> float:
        """I(X;Y) in nats."""
        return -0.5 * self.dimensions * float(np.log1p(-(self.correlation**2)))

    @property
    def expected_club(self) -> float:
        """Expectation of CLUB with the exact q, in nats: never below the information."""
        return self.dimensions * self.correlation**2 / (1 - self.correlation**2)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """n fresh pairs: S_BB[i, j] = log p(y_j|x_i), and their density log p(y_j|x_j) - log p(y_j), nats."""
        x_BD = rng.standard_normal((n, self.dimensions))
        noise_variance = 1 - self.correlation**2
        y_BD = self.correlation * x_BD + np.sqrt(noise_variance) * rng.standard_normal((n, self.dimensions))
        mean_BD = self.correlation * x_BD
        square_BB = (mean_BD**2).sum(-1)[:, None] + (y_BD**2).sum(-1)[None, :] - 2 * mean_BD @ y_BD.T
        constant = -0.5 * self.dimensions * np.log(2 * np.pi)
        S_BB = constant - 0.5 * self.dimensions * np.log(noise_variance) - square_BB / (2 * noise_variance)
        marginal_B = constant - 0.5 * (y_BD**2).sum(-1)
        return np.asarray(S_BB), np.asarray(np.diagonal(S_BB) - marginal_B)
