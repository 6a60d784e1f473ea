"""What is wrong with a data set, said before anything trains on it."""
