"""Curation: a pool of questions becomes a training set, stage by stage, file by file (docs/curation.md)."""
