"""Power iteration over a jitted JAX product, as most published code for sharpness does it."""

import numpy as np

from benchmarks.contenders import Result
from benchmarks.contenders.jax_by_hand import JaxByHand
from benchmarks.workloads import RTOL

_MOST_PRODUCTS = 500


class PowerIteration(JaxByHand):
    """`trail` holds the Rayleigh quotient after every product of the last run."""

    trail: list[float]

    def run(self) -> Result:
        """Beside its own count, `oracle`: products until the value is within 1e-3 of where it ends, for good."""
        values, num_products, _ = super().run()
        far = [i for i, value in enumerate(self.trail) if abs(value - self.trail[-1]) > RTOL * abs(self.trail[-1])]
        return Result(values, num_products, {"oracle": float(far[-1] + 2 if far else 1)})

    def largest(self) -> float:
        vector = self.start()
        self.trail = []
        for _ in range(_MOST_PRODUCTS):
            vector = vector / np.linalg.norm(vector)
            image = self.product(vector)
            value = float(vector @ image)
            self.trail.append(value)
            if np.linalg.norm(image - value * vector) <= RTOL * value:
                break
            vector = image
        return value
