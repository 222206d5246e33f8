"""Runs that compute only users whose inputs changed since an earlier run, and what then differs from that run."""
