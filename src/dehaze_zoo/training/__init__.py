"""Recipes as LightningModules, their schedules and callbacks."""
