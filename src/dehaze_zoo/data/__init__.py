"""Pairs of pictures: layouts, reading, haze synthesis, samplers; datamodule.py alone knows Lightning."""
