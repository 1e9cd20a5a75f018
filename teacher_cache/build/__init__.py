"""Builds a cache: what is asked, the plan, one task per shard, and Dask that runs them."""
