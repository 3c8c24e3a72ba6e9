"""Many runs: what there is to do of them, by one machine and by several."""
