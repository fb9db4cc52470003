"""Fitting a model to cells, for both doors."""
