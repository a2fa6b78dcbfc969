"""Comparison of runs over seeds: groups, statistics, costs, and the page that shows them."""
