"""What every part needs of the machine: errors, files, checkpoints, ranks, threads, signals, strict settings files."""
