"""hessflat beside its peers, on the same networks, weights and data: `python -m benchmarks.run`."""
