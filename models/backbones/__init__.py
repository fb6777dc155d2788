"""Backbones beside the one that loads them: their files, what is known without weights, students of a teacher."""
