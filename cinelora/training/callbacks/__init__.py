"""What happens beside the optimisation, a file each; ``order`` says which act, and in which order."""
