"""What a training leaves for people to read."""
