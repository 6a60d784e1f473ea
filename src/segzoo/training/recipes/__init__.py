"""Recipes: the settings of trainings as data."""
