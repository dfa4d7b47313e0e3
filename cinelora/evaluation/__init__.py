"""Did it work: the base beside its adapters, in numbers, in pictures, and in the eyes of people."""
