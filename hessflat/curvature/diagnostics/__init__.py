"""What an operator would cost, and whether its loss can be differentiated twice."""
