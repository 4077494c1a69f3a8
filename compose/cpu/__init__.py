"""The index and the networks on CPU cores, compiled by numba."""
