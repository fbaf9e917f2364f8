"""The report of runs: curves and tables on one page."""
