"""What more devices and more processes add to training, products and Lanczos, on the virtual devices of a CPU."""
