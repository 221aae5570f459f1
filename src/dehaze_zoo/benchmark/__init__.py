"""Comparing networks: runner, results store, statistics, reports. The verb is __main__.py."""
