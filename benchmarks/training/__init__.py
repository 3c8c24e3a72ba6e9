"""Training: hessflat beside a loop written by hand in JAX and the same networks in PyTorch."""
