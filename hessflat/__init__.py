"""Loss curvature in JAX: spectra of Hessians, Gauss-Newton matrices and Jacobians, with error bars."""

__version__ = "0.1.0"
