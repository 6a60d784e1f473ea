"""Results of a training for people to read: curves, samples, report page, model card."""
