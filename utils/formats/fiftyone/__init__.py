"""FiftyOne: an exported data set, samples.json and metadata.json beside its pictures."""
