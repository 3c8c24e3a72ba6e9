"""The spectra of all layers' blocks beside one spectrum of the whole matrix."""

import hessflat.curvature as cv
from benchmarks.contenders import Result
from benchmarks.contenders.ours import Ours
from benchmarks.timing import seconds_of


class Blocks(Ours):
    """A run is one sample of each, in turn."""

    def run(self) -> Result:
        op = self.operator(self.workload.matrix)
        parts = {
            "whole": seconds_of(lambda: cv.spectrum(op, self.key, self.steps)),
            "blocks": seconds_of(lambda: self.block_spectra(op, tolerance=0)),
            "settled": seconds_of(lambda: self.block_spectra(op)),
        }
        return Result([], 0, parts)
