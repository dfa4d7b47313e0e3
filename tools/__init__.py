"""What a clone of the project has beside its package: programs that make or prove what is shipped."""
