"""Checks of the measurement against known truth: coverage of intervals, null runs, designs of negatives."""
