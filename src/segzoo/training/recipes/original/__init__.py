"""Recipes out of the training configs of mmsegmentation and its forks; `derive.py` puts them together."""
